#define _GNU_SOURCE
#include "post.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum { ANSWER_BYTES = 8192, EVENT_BYTES = 20 << 20 };

static struct poster {
    int fd;
    bool busy;
    size_t have;
    char answer[ANSWER_BYTES];
} posters[POSTERS];

static uint32_t open_posters;
static const char *posted_path;
static uint64_t failed, due;
static char event[EVENT_BYTES], request[EVENT_BYTES + 512];

/* The connection for single posts, and the number of sent bytes of its request. */
static struct poster single = {.fd = -1};
static size_t single_length, single_sent;

static int connected(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)server_port)};
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&there, sizeof there)) {
        perror("load: the publisher cannot connect");
        exit(1);
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    return fd;
}

/* Writes the request; returns its length. */
static size_t format(const char *path, uint64_t seq, uint64_t size) {
    size_t length = feed_event(event, seq, size);
    int head = sprintf(request,
                       "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                       "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                       path, server_port, length);
    memcpy(request + head, event, length);
    return (size_t)head + length;
}

static void broken(void) {
    perror("load: a post failed");
    exit(1);
}

static void post(struct poster *poster, const char *path, uint64_t seq, uint64_t size) {
    size_t length = format(path, seq, size);
    poster->busy = true;
    poster->have = 0;
    if (send(poster->fd, request, length, MSG_NOSIGNAL) < 0)
        broken();
}

/* Whether the answer is complete; counts a failure. */
static bool answered(struct poster *poster) {
    poster->answer[poster->have] = 0;
    char *end = strstr(poster->answer, "\r\n\r\n");
    if (end == NULL)
        return false;
    char *length = strcasestr(poster->answer, "content-length:");
    size_t body = length && length < end ? strtoul(length + 15, NULL, 10) : 0;
    if ((size_t)(end + 4 - poster->answer) + body > poster->have)
        return false;
    if (strncmp(poster->answer, "HTTP/1.1 2", 10) != 0 && failed++ < 3)
        fprintf(stderr, "load: a post was refused: %.300s\n", poster->answer);
    return true;
}

static void read_answer(struct poster *poster, int flags) {
    ssize_t got = recv(poster->fd, poster->answer + poster->have,
                       ANSWER_BYTES - 1 - poster->have, flags);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN)
            return;
        fprintf(stderr, "load: the server closed the publisher's connection\n");
        exit(1);
    }
    poster->have += (size_t)got;
    if (answered(poster))
        poster->busy = false;
}

void posters_open(uint32_t count, const char *path) {
    posted_path = path;
    for (open_posters = 0; open_posters < count && open_posters < POSTERS; open_posters++) {
        posters[open_posters].fd = connected();
        struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = POSTER_EVENT | open_posters};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, posters[open_posters].fd, &wanted);
    }
}

void posters_post(struct feed *feed) {
    double rate = feed->rate;
    if (!(rate > 0) || !open_posters) {
        due = 0;
        return;
    }
    uint64_t now = monotonic_ns(), step = (uint64_t)(1e9 / rate);
    if (due == 0 || now > due + 1000000000ull)
        due = now;
    for (uint32_t i = 0; i < open_posters && now >= due; i++) {
        if (posters[i].busy)
            continue;
        post(&posters[i], posted_path, feed->published + 1, feed->size);
        feed->published++;
        due += step;
    }
}

void poster_ready(uint32_t number) { read_answer(&posters[number], 0); }

uint64_t posters_failed(void) { return failed; }

void post_begin(const char *path, uint64_t seq, uint64_t size) {
    if (single.fd < 0)
        single.fd = connected();
    single_length = format(path, seq, size);
    single_sent = 0;
    single.busy = true;
    single.have = 0;
}

bool post_goes_on(void) {
    if (single_sent < single_length) {
        ssize_t sent = send(single.fd, request + single_sent, single_length - single_sent,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN)
            broken();
        single_sent += sent > 0 ? (size_t)sent : 0;
    }
    /* A refusal comes before the end of the request. */
    read_answer(&single, MSG_DONTWAIT);
    return !single.busy;
}

static void value(char *out, size_t room, const char *json, const char *key) {
    const char *at = strstr(json, key);
    *out = 0;
    if (at == NULL)
        return;
    at += strlen(key);
    size_t length = strcspn(at, "\",}");
    snprintf(out, room, "%.*s", (int)length, at);
}

struct position posted(void) {
    struct position position = {0};
    char offset[32];
    value(position.id, sizeof position.id, single.answer, "\"id\":\"");
    value(position.epoch, sizeof position.epoch, single.answer, "\"epoch\":\"");
    value(offset, sizeof offset, single.answer, "\"offset\":");
    position.offset = strtoull(offset, NULL, 10);
    return position;
}
