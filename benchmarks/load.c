/* The load tool: N clients of one server in one thread, everything counted.
 *
 * usage: load --port=P --feed=FILE --pid=PID[,PID...] [--group=KEY=VALUE,...]... [options]
 *
 * Connects all groups, looks at the server idle, has it publish (through the feed, or by
 * posting itself), measures windows, lets everything arrive, and prints one JSON line.
 * Sockets are looked at every 200 us: a reader that sleeps in epoll would have its wake-ups
 * charged to the server.
 */
#define _GNU_SOURCE
#include "count.h"
#include "feed.h"
#include "peer.h"
#include "post.h"

#include <math.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum { GROUPS = 8, WINDOWS = 64, EVENTS = 8192, POLL_NS = 200000, PATIENCE_S = 180 };

static struct {
    double settle, idle, rate, warmup, window, drain;
    uint64_t size, storm;
    uint32_t windows, ramp, storm_ramp, posters;
    const char *post;
} wanted = {.settle = 0.5, .rate = 10, .warmup = 1, .window = 3, .size = 98,
            .windows = 3, .ramp = 32, .storm_ramp = 2000, .posters = 1};

static struct feed *feed;
static struct server server;
static struct group groups[GROUPS];
static uint32_t group_count, peer_count, next_connect;
static struct peer *peers;
static struct passes passes;
static struct position position;
static const struct position *since;

/* What had happened at one moment. */
struct moment {
    uint64_t at, cpu, rss, published, deliveries, bytes;
};

static struct moment look(void) {
    struct moment moment = {monotonic_ns(), server_cpu_ns(&server), server_rss_kb(&server),
                            feed->published, 0, 0};
    for (uint32_t i = 0; i < group_count; i++) {
        moment.deliveries += groups[i].deliveries;
        moment.bytes += groups[i].bytes;
    }
    return moment;
}

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
    while (next_connect < peer_count && in_progress < wanted.ramp) {
        struct peer *peer = &peers[next_connect];
        if (peer->state == IDLE)
            peer_connect(peer, next_connect, peer->group->storms ? since : NULL);
        next_connect++;
    }
    posters_post(feed);
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

/* Between two publications, if there is a moment between them. */
static struct moment edge(uint64_t at) {
    uint64_t latest = at + 300000000ull;
    while (monotonic_ns() < at || (passes.begun != passes.complete && monotonic_ns() < latest))
        turn();
    return look();
}

static void clear_times(void) {
    histogram_clear(&passes.times);
    for (uint32_t i = 0; i < group_count; i++)
        histogram_clear(&groups[i].times);
}

static void print_times(const char *name, const struct histogram *times) {
    printf("\"%s\":{\"count\":%llu,\"p50_us\":%llu,\"p99_us\":%llu,\"max_us\":%llu}", name,
           (unsigned long long)times->count, (unsigned long long)histogram_at(times, 0.5),
           (unsigned long long)histogram_at(times, 0.99), (unsigned long long)times->most);
}

static void print_span(const struct moment *from, const struct moment *to) {
    printf("\"seconds\":%.6f,\"cpu_seconds\":%.9f,\"published\":%llu,\"deliveries\":%llu,"
           "\"bytes\":%llu,\"rss_kb\":%llu",
           (double)(to->at - from->at) / 1e9, (double)(to->cpu - from->cpu) / 1e9,
           (unsigned long long)(to->published - from->published),
           (unsigned long long)(to->deliveries - from->deliveries),
           (unsigned long long)(to->bytes - from->bytes), (unsigned long long)to->rss);
}

static void print_all_times(void) {
    print_times("passes", &passes.times);
    printf(",\"groups\":[");
    for (uint32_t i = 0; i < group_count; i++) {
        printf("%s{", i ? "," : "");
        print_times("times", &groups[i].times);
        printf("}");
    }
    printf("]");
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
        peer->expected = feed->published + 1;
        if (peer->group == groups) {
            groups->passes = &passes;
            passes.wanted++;
        }
    }
    feed->rate = wanted.rate;
}

static uint64_t last_of(const struct peer *peer) {
    return peer->group->storms ? wanted.storm : feed->published;
}

static uint64_t outstanding(void) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < peer_count; i++)
        if (reads_all(&peers[i]) && peers[i].expected && peers[i].expected <= last_of(&peers[i]))
            sum += last_of(&peers[i]) + 1 - peers[i].expected;
    return sum;
}

static void drain(void) {
    feed->rate = 0;
    /* The server looks at the feed at least four times a second. */
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

/* All of the groups that storm are cut, miss `storm` publications, and come back at once. */
static void measure_storm(void) {
    const char *path = wanted.post;
    begin_to_publish();
    turn_for(wanted.warmup);
    position = post_and_wait(path, 1, wanted.size);
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
        stormers++;
    }
    clear_times();
    struct moment from = look();
    for (uint64_t seq = 2; seq <= wanted.storm; seq++)
        post_and_wait(path, seq, wanted.size);
    struct moment posted = look();
    since = &position;
    wanted.ramp = wanted.storm_ramp;
    next_connect = 0;
    uint64_t end = after(PATIENCE_S);
    while (back < stormers && monotonic_ns() < end) {
        if (next_connect == peer_count && !in_progress && end > after(2))
            end = after(2); /* those who failed do not come again */
        turn();
        back = 0;
        for (uint32_t i = 0; i < peer_count; i++)
            back += peers[i].group->storms && peers[i].expected == wanted.storm + 1;
    }
    struct moment to = look();
    printf(",\"storm\":{\"clients\":%u,\"back\":%u,\"early_losses\":%u,\"posting_seconds\":%.6f,",
           stormers, back, early, (double)(posted.at - from.at) / 1e9);
    print_span(&posted, &to);
    printf(",");
    print_all_times();
    printf("}");
}

static void print_group(const struct group *group, bool first) {
    uint64_t missing = group->missing;
    for (uint32_t i = 0; i < peer_count; i++)
        if (peers[i].group == group && reads_all(&peers[i]) && peers[i].expected &&
            peers[i].expected <= last_of(&peers[i]))
            missing += last_of(&peers[i]) + 1 - peers[i].expected;
    printf("%s{\"clients\":%u,\"ready\":%llu,\"failed\":%llu,\"closed\":%llu,\"deliveries\":%llu,"
           "\"missing\":%llu,\"duplicates\":%llu,\"bad\":%llu,\"pings\":%llu,\"pongs\":%llu}",
           first ? "" : ",", group->count, (unsigned long long)group->ready,
           (unsigned long long)group->failed, (unsigned long long)group->closed,
           (unsigned long long)group->deliveries, (unsigned long long)missing,
           (unsigned long long)group->duplicates, (unsigned long long)group->bad,
           (unsigned long long)group->pings, (unsigned long long)group->pongs);
}

static int choice(const char *text, const char *const *names, const char *what) {
    for (int i = 0; names[i]; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    fprintf(stderr, "load: unknown %s: %s\n", what, text);
    exit(2);
}

static void add_group(char *text) {
    static const char *const protocols[] = {"websocket", "stream",   "centrifuge",
                                            "sse",       "socketio", NULL};
    static const char *const behaviours[] = {"reads", "stalls", "crawls", "pings", NULL};
    if (group_count == GROUPS) {
        fprintf(stderr, "load: more than %d groups\n", GROUPS);
        exit(2);
    }
    struct group *group = &groups[group_count++];
    group->channels = 1;
    for (char *part = strtok(text, ","); part; part = strtok(NULL, ",")) {
        char *equals = strchr(part, '=');
        char *value = equals ? equals + 1 : part + strlen(part);
        if (equals)
            *equals = 0;
        if (strcmp(part, "protocol") == 0)
            group->protocol = (enum protocol)choice(value, protocols, "protocol");
        else if (strcmp(part, "behaviour") == 0)
            group->behaviour = (enum behaviour)choice(value, behaviours, "behaviour");
        else if (strcmp(part, "clients") == 0)
            group->count = (uint32_t)atoi(value);
        else if (strcmp(part, "channels") == 0)
            group->channels = (uint32_t)atoi(value);
        else if (strcmp(part, "path") == 0)
            snprintf(group->path, sizeof group->path, "%s", value);
        else if (strcmp(part, "channel") == 0)
            snprintf(group->channel, sizeof group->channel, "%s", value);
        else if (strcmp(part, "storms") == 0)
            group->storms = true;
        else {
            fprintf(stderr, "load: unknown key of a group: %s\n", part);
            exit(2);
        }
    }
}

static void option(char *text) {
    char *value = strchr(text, '=');
    if (strncmp(text, "--", 2) != 0 || value == NULL) {
        fprintf(stderr, "load: expected --NAME=VALUE, got %s\n", text);
        exit(2);
    }
    *value++ = 0;
    const char *name = text + 2;
    struct {
        const char *name;
        double *value;
    } numbers[] = {{"settle", &wanted.settle}, {"idle", &wanted.idle},     {"rate", &wanted.rate},
                   {"warmup", &wanted.warmup}, {"window", &wanted.window},
                   {"drain", &wanted.drain},   {NULL, NULL}};
    for (int i = 0; numbers[i].name; i++)
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].value = strtod(value, NULL);
            return;
        }
    if (strcmp(name, "port") == 0)
        server_port = atoi(value);
    else if (strcmp(name, "feed") == 0)
        feed = feed_open(value);
    else if (strcmp(name, "pid") == 0)
        for (char *pid = strtok(value, ","); pid && server.count < PROCESSES;
             pid = strtok(NULL, ","))
            server.pid[server.count++] = atoi(pid);
    else if (strcmp(name, "group") == 0)
        add_group(value);
    else if (strcmp(name, "windows") == 0)
        wanted.windows = (uint32_t)atoi(value);
    else if (strcmp(name, "ramp") == 0)
        wanted.ramp = (uint32_t)atoi(value);
    else if (strcmp(name, "storm-ramp") == 0)
        wanted.storm_ramp = (uint32_t)atoi(value);
    else if (strcmp(name, "size") == 0)
        wanted.size = strtoull(value, NULL, 10);
    else if (strcmp(name, "storm") == 0)
        wanted.storm = strtoull(value, NULL, 10);
    else if (strcmp(name, "post") == 0)
        wanted.post = value;
    else if (strcmp(name, "posters") == 0)
        wanted.posters = (uint32_t)atoi(value);
    else {
        fprintf(stderr, "load: unknown option --%s\n", name);
        exit(2);
    }
}

static void make_peers(void) {
    for (uint32_t i = 0; i < group_count; i++)
        peer_count += groups[i].count;
    peers = calloc(peer_count + 1, sizeof *peers);
    uint32_t made = 0;
    for (uint32_t i = 0; i < group_count; i++)
        for (uint32_t j = 0; j < groups[i].count; j++)
            peers[made++] = (struct peer){.group = &groups[i], .number = j, .fd = -1};
    /* Nobody connects before connect_all. */
    next_connect = peer_count;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        option(argv[i]);
    if (!server_port || feed == NULL) {
        fprintf(stderr, "load: --port and --feed are needed\n");
        return 2;
    }
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

    struct moment start = look();
    connect_all();
    struct moment connected = look();
    turn_for(wanted.settle);
    struct moment settled = look();
    printf("{\"connect\":{");
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
    printf("]}\n");
    return 0;
}
