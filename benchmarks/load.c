/* The load tool: N clients of one server in one thread, everything counted.
 *
 * usage: load --port=P --feed=FILE --pid=PID[,PID...] [--group=KEY=VALUE,...]... [options]
 * (options.c has them)
 *
 * Connects all groups, measures the idle server, starts publishing (through the feed, or by
 * posts of its own), measures windows, waits for late publications, and prints one JSON line.
 * It polls its sockets every 200 us: the server would pay for waking a reader that sleeps.
 */
#define _GNU_SOURCE
#include "count.h"
#include "feed.h"
#include "options.h"
#include "peer.h"
#include "post.h"
#include "told.h"

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>

/* AT_ONCE: connections opened or cut before the data of the others is read again. */
enum { EVENTS = 8192, POLL_NS = 200000, PATIENCE_S = 180, AT_ONCE = 64 };

static uint32_t peer_count, next_connect;
static struct peer *peers;
static struct position position;
static const struct position *since;

static void turn(void) {
    static struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, 0);
    for (int i = 0; i < count; i++) {
        uint64_t event = events[i].data.u64;
        if (event & POSTER_EVENT)
            poster_ready((uint32_t)event & ~POSTER_EVENT);
        else if (peers[event].fd >= 0)
            peer_ready(&peers[event], event, peers[event].group->storms ? since : NULL);
    }
    for (int dialled = 0; next_connect < peer_count && in_progress < wanted.ramp; next_connect++) {
        struct peer *peer = &peers[next_connect];
        if (peer->state != IDLE)
            continue;
        if (dialled++ == AT_ONCE)
            break;
        peer_connect(peer, next_connect, peer->group->storms ? since : NULL);
    }
    posters_post(feed);
    sample_memory();
    if (count < EVENTS) {
        struct timespec pause = {0, POLL_NS};
        nanosleep(&pause, NULL);
    }
}

static uint64_t after(double seconds) { return monotonic_ns() + (uint64_t)(seconds * 1e9); }

static void turn_for(double seconds) {
    for (uint64_t end = after(seconds); monotonic_ns() < end;)
        turn();
}

static void connect_all(void) {
    uint64_t end = after(PATIENCE_S);
    next_connect = 0;
    while ((next_connect < peer_count || in_progress) && monotonic_ns() < end)
        turn();
}

/* The time between two publications, if there is one within 0.3 s. */
static struct moment edge(uint64_t at) {
    uint64_t latest = at + 300000000ull;
    while (monotonic_ns() < at || (passes.begun != passes.complete && monotonic_ns() < latest))
        turn();
    return look();
}

static bool reads_all(const struct peer *peer) {
    return peer->state == READY && peer->group->behaviour != STALLS && peer->group->channels == 1;
}

/* From here on each client expects the next publication. */
static void begin_to_publish(void) {
    passes.wanted = 0;
    for (uint32_t i = 0; i < peer_count; i++) {
        struct peer *peer = &peers[i];
        if (!reads_all(peer) || peer->group->storms)
            continue;
        peer->expected = peer->group->once ? 1 : feed->published + 1;
        if (peer->group == groups) {
            groups->passes = &passes;
            passes.wanted++;
        }
    }
    feed->rate = wanted.rate;
}

static uint64_t last_of(const struct peer *peer) {
    return peer->group->storms ? wanted.storm : peer->group->once ? 1 : feed->published;
}

/* The missing deliveries of a group of many channels, each with an equal share of its clients. */
static uint64_t lacks(const struct group *group) {
    if (group->channels == 1 || group->behaviour == STALLS || group->storms || group->once)
        return 0;
    uint64_t all = feed->published * (group->count / group->channels);
    uint64_t have = group->deliveries - group->duplicates;
    return all > have ? all - have : 0;
}

static uint64_t outstanding(void) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < group_count; i++)
        sum += lacks(&groups[i]);
    for (uint32_t i = 0; i < peer_count; i++)
        if (reads_all(&peers[i]) && peers[i].expected && peers[i].expected <= last_of(&peers[i]))
            sum += last_of(&peers[i]) + 1 - peers[i].expected;
    return sum;
}

static void drain(void) {
    feed->rate = 0;
    /* The server reads the feed at least four times a second. */
    turn_for(0.4);
    for (uint64_t end = after(wanted.drain); outstanding() && monotonic_ns() < end;)
        turn_for(0.02);
}

static void measure_windows(void) {
    begin_to_publish();
    turn_for(wanted.warmup);
    printf(",\"windows\":[");
    struct moment from = edge(monotonic_ns());
    for (uint32_t i = 0; i < wanted.windows; i++) {
        clear_times();
        struct moment to = edge(from.at + (uint64_t)(wanted.window * 1e9));
        printf("%s{", i ? "," : "");
        print_span(&from, &to);
        printf(",");
        print_all_times();
        printf("}");
        from = to;
    }
    printf("]");
}

static void post_one(uint64_t seq) {
    post_begin(wanted.post, seq, wanted.size);
    while (!post_goes_on())
        turn();
}

/* The groups that storm are cut, miss `storm` publications, and reconnect at once. */
static void measure_storm(void) {
    begin_to_publish();
    turn_for(wanted.warmup);
    post_one(1);
    position = posted();
    turn_for(0.5);
    uint32_t stormers = 0, back = 0, early = 0;
    for (uint32_t i = 0; i < peer_count; i++) {
        struct peer *peer = &peers[i];
        if (!peer->group->storms)
            continue;
        early += peer->expected != 2;
        peer_close(peer);
        peer->state = IDLE;
        peer->group->ready = 0;
        if (++stormers % AT_ONCE == 0)
            turn();
    }
    clear_times();
    struct moment from = look();
    for (uint64_t seq = 2; seq <= wanted.storm; seq++)
        post_one(seq);
    struct moment begun = look();
    since = &position;
    wanted.ramp = wanted.storm_ramp;
    next_connect = 0;
    uint64_t end = after(PATIENCE_S);
    while (back < stormers && monotonic_ns() < end) {
        if (next_connect == peer_count && !in_progress && end > after(2))
            end = after(2); /* failed clients do not reconnect */
        turn();
        back = 0;
        for (uint32_t i = 0; i < peer_count; i++)
            back += peers[i].group->storms && peers[i].expected == wanted.storm + 1;
    }
    struct moment to = look();
    printf(",\"storm\":{\"clients\":%u,\"back\":%u,\"early_losses\":%u,\"posting_seconds\":%.6f,",
           stormers, back, early, (double)(begun.at - from.at) / 1e9);
    print_span(&begun, &to);
    printf(",");
    print_all_times();
    printf("}");
}

/* One long publication to some groups, while the others get short ones. */
static void measure_once(void) {
    uint64_t clients = 0, have = 0, answered_at = 0;
    for (uint32_t i = 0; i < group_count; i++)
        clients += groups[i].once ? groups[i].count : 0;
    begin_to_publish();
    turn_for(wanted.warmup);
    struct moment from = edge(monotonic_ns());
    clear_times();
    post_begin(wanted.post, 1, wanted.once);
    uint64_t end = after(PATIENCE_S);
    while ((have < clients || !answered_at) && !posters_failed() && monotonic_ns() < end) {
        if (!answered_at && post_goes_on())
            answered_at = monotonic_ns();
        turn();
        have = 0;
        for (uint32_t i = 0; i < group_count; i++)
            have += groups[i].once ? groups[i].deliveries : 0;
    }
    struct moment to = look();
    if (!answered_at)
        answered_at = to.at;
    printf(",\"once\":{\"clients\":%llu,\"have\":%llu,\"size\":%llu,\"posting_seconds\":%.6f,",
           (unsigned long long)clients, (unsigned long long)have,
           (unsigned long long)wanted.once, (double)(answered_at - from.at) / 1e9);
    print_span(&from, &to);
    printf(",");
    print_all_times();
    printf("}");
}

static void print_group(const struct group *group, bool first) {
    /* In a group of many channels, the missing deliveries include the gaps. */
    uint64_t missing = lacks(group) > group->missing ? lacks(group) : group->missing;
    for (uint32_t i = 0; i < peer_count; i++)
        if (peers[i].group == group && reads_all(&peers[i]) && peers[i].expected &&
            peers[i].expected <= last_of(&peers[i]))
            missing += last_of(&peers[i]) + 1 - peers[i].expected;
    printf("%s{\"behaviour\":\"%s\",\"channels\":%u,\"clients\":%u,\"ready\":%llu,"
           "\"failed\":%llu,\"closed\":%llu,\"deliveries\":%llu,\"missing\":%llu,"
           "\"duplicates\":%llu,\"bad\":%llu,\"pings\":%llu,\"pongs\":%llu,\"deflated\":%llu}",
           first ? "" : ",", behaviours[group->behaviour], group->channels, group->count,
           (unsigned long long)group->ready,
           (unsigned long long)group->failed, (unsigned long long)group->closed,
           (unsigned long long)group->deliveries, (unsigned long long)missing,
           (unsigned long long)group->duplicates, (unsigned long long)group->bad,
           (unsigned long long)group->pings, (unsigned long long)group->pongs,
           (unsigned long long)group->deflated);
}

static void make_peers(void) {
    for (uint32_t i = 0; i < group_count; i++)
        peer_count += groups[i].count;
    peers = calloc(peer_count + 1, sizeof *peers);
    uint32_t made = 0;
    for (uint32_t i = 0; i < group_count; i++)
        for (uint32_t j = 0; j < groups[i].count; j++)
            peers[made++] = (struct peer){.group = &groups[i], .number = j, .fd = -1};
    /* No client connects before connect_all. */
    next_connect = peer_count;
}

int main(int argc, char **argv) {
    options_read(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1000);
    epoll_fd = epoll_create1(0);
    feed->rate = 0;
    feed->size = wanted.size;
    make_peers();
    turn_for(wanted.settle);

    printf("{\"pss_before_kb\":[");
    print_memory();
    struct moment start = look();
    connect_all();
    struct moment connected = look();
    turn_for(wanted.settle);
    struct moment settled = look();
    printf("],\"pss_kb\":[");
    print_memory();
    printf("],\"connect\":{");
    print_span(&start, &connected);
    printf("},\"rss_before_kb\":%llu,\"rss_kb\":%llu", (unsigned long long)start.rss,
           (unsigned long long)settled.rss);
    if (wanted.idle > 0) {
        turn_for(wanted.idle);
        struct moment idle = look();
        printf(",\"idle\":{");
        print_span(&settled, &idle);
        printf("}");
    }
    if (wanted.storm)
        measure_storm();
    else if (wanted.once)
        measure_once();
    else {
        if (wanted.post)
            posters_open(wanted.posters, wanted.post);
        if (wanted.windows)
            measure_windows();
    }
    drain();
    printf(",\"refused_posts\":%llu,\"groups\":[", (unsigned long long)posters_failed());
    for (uint32_t i = 0; i < group_count; i++)
        print_group(&groups[i], i == 0);
    printf("],\"rss_end_kb\":%llu}\n", (unsigned long long)server_rss_kb(&server));
    return 0;
}
