/* The limit: what the kernel alone takes to send one ready frame to each of N clients.
 *
 * usage: limit PORT CONTROL
 *
 * Serves WebSockets (any path) and Server-Sent Events (a path that begins with /sse) on
 * 127.0.0.1. A publication is formatted once and then costs one send() for each client;
 * there is no queue, and a client that does not take a whole frame is dropped.
 */
#define _GNU_SOURCE
#include "feed.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum { HEAD_BYTES = 2048, EVENTS = 512, CLIENTS = 1 << 20 };
enum kind { NONE, HEAD, WEBSOCKET, SSE };

struct client {
    enum kind kind;
    uint32_t place; /* in `open` of its kind */
    uint32_t used;
    char *head;
};

static struct client clients[CLIENTS]; /* by file descriptor */
static int open_clients[2][CLIENTS];
static uint32_t open_count[2];
static int epoll_fd;

/* The load tool always sends the key of RFC 6455's example. */
static const char UPGRADED[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                               "Connection: Upgrade\r\n"
                               "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
static const char STREAMING[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                                "Cache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n";

static void drop(int fd) {
    struct client *client = &clients[fd];
    if (client->kind == WEBSOCKET || client->kind == SSE) {
        int which = client->kind == SSE;
        int last = open_clients[which][--open_count[which]];
        open_clients[which][client->place] = last;
        clients[last].place = client->place;
    }
    free(client->head);
    *client = (struct client){0};
    close(fd);
}

static void answer(int fd) {
    struct client *client = &clients[fd];
    int sse = strncmp(client->head, "GET /sse", 8) == 0;
    const char *text = sse ? STREAMING : UPGRADED;
    free(client->head);
    client->head = NULL;
    client->kind = sse ? SSE : WEBSOCKET;
    client->place = open_count[sse];
    open_clients[sse][open_count[sse]++] = fd;
    if (send(fd, text, strlen(text), MSG_NOSIGNAL) != (ssize_t)strlen(text))
        drop(fd);
}

static void readable(int fd) {
    struct client *client = &clients[fd];
    char ignored[4096];
    if (client->kind != HEAD) {
        ssize_t got = recv(fd, ignored, sizeof ignored, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN))
            drop(fd);
        return;
    }
    ssize_t got = recv(fd, client->head + client->used, HEAD_BYTES - 1 - client->used, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            drop(fd);
        return;
    }
    client->used += (uint32_t)got;
    client->head[client->used] = 0;
    if (strstr(client->head, "\r\n\r\n"))
        answer(fd);
    else if (client->used == HEAD_BYTES - 1)
        drop(fd);
}

static void accept_all(int listener) {
    int fd, yes = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        clients[fd] = (struct client){.kind = HEAD, .head = malloc(HEAD_BYTES)};
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

static void send_to_all(int which, const char *frame, size_t length) {
    for (uint32_t i = open_count[which]; i-- > 0;) {
        int fd = open_clients[which][i];
        if (send(fd, frame, length, MSG_DONTWAIT | MSG_NOSIGNAL) != (ssize_t)length)
            drop(fd);
    }
}

static void publish(uint64_t seq, uint64_t size) {
    static char *event, *frame;
    static uint64_t room;
    if (size + 256 > room) {
        room = size + 256;
        event = realloc(event, room);
        frame = realloc(frame, room + 64);
    }
    size_t length = feed_event(event, seq, size);
    if (open_count[0]) {
        size_t head = length < 126 ? 2 : length < 65536 ? 4 : 10;
        frame[0] = (char)0x81;
        frame[1] = (char)(head == 2 ? length : head == 4 ? 126 : 127);
        for (size_t i = 0; head > 2 && i < head - 2; i++)
            frame[2 + i] = (char)(length >> (8 * (head - 3 - i)));
        memcpy(frame + head, event, length);
        send_to_all(0, frame, head + length);
    }
    if (open_count[1]) {
        size_t used = (size_t)sprintf(frame, "%zx\r\ndata: ", length + 8);
        memcpy(frame + used, event, length);
        memcpy(frame + used + length, "\n\n\r\n", 4);
        send_to_all(1, frame, used + length + 4);
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&here, sizeof here) || listen(fd, 4096)) {
        perror("listen");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: limit PORT CONTROL\n");
        return 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct feed *feed = feed_open(argv[2]);
    int listener = listen_on(atoi(argv[1]));
    epoll_fd = epoll_create1(0);
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    uint64_t due = 0;
    for (;;) {
        double rate = feed->rate;
        uint64_t now = monotonic_ns();
        int wait = 100;
        if (rate > 0) {
            uint64_t step = (uint64_t)(1e9 / rate);
            if (due == 0 || now > due + 1000000000ull)
                due = now;
            if (now >= due) {
                publish(feed->published + 1, feed->size);
                feed->published++;
                due += step;
            }
            now = monotonic_ns();
            wait = due > now ? (int)((due - now + 999999) / 1000000) : 0;
            wait = wait < 100 ? wait : 100;
        } else
            due = 0;
        int count = epoll_wait(epoll_fd, events, EVENTS, wait);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                accept_all(listener);
            else if (clients[events[i].data.fd].kind != NONE)
                readable(events[i].data.fd);
        }
    }
}
