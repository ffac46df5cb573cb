#define _GNU_SOURCE
#include "peer.h"

#include "feed.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum {
    ROOM = 20 << 20,      /* the longest frame */
    READ_BYTES = 1 << 20, /* at one time */
    LONG = 16 << 10,      /* only the beginning of a longer frame is read */
    BEGINNING = 1024,
    CRAWL_BYTES = 2048,
    CRAWL_NS = 50000000,
    SOURCES = 8,
};
enum chunk_part { SIZE, EXTENSION, DATA, AFTER_DATA, PLAIN };

static const uint64_t NO_EVENT = UINT64_MAX;

int epoll_fd, server_port;
uint32_t in_progress;

static char raw[ROOM], lines[ROOM];

/* The key of the example in RFC 6455, whose answer is constant. */
static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==";
static const char ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/* The connection ended: `error` as errno has it, 0 if the server closed it in order. */
static void ended(struct peer *peer, int error) {
    static const char *const stages[] = {"idle",        "connecting",  "waiting for the answer",
                                         "greeting",    "subscribing", "ready",
                                         "closed"};
    struct group *group = peer->group;
    if (peer->state == READY)
        group->closed++;
    else {
        if (group->failed++ < 3)
            fprintf(stderr, "load: a connection ended while %s: %s\n", stages[peer->state],
                    error ? strerror(error) : "closed by the server");
        in_progress--;
    }
    peer_close(peer);
}

static void gone(struct peer *peer) { ended(peer, EPROTO); }

void peer_close(struct peer *peer) {
    if (peer->fd >= 0)
        close(peer->fd);
    free(peer->hold);
    peer->hold = NULL;
    peer->held = 0;
    peer->long_left = 0;
    peer->fd = -1;
    peer->state = CLOSED;
}

static void is_ready(struct peer *peer, uint64_t event) {
    peer->state = READY;
    peer->group->ready++;
    in_progress--;
    if (peer->group->behaviour == STALLS) {
        struct epoll_event none = {.events = 0, .data.u64 = event};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, peer->fd, &none);
    }
}

static bool transmit(struct peer *peer, const void *bytes, size_t length) {
    return send(peer->fd, bytes, length, MSG_NOSIGNAL) == (ssize_t)length;
}

/* A masked frame with a mask of zero, which leaves the payload as it is. */
static bool frame(struct peer *peer, int opcode, const char *payload, size_t length) {
    char bytes[1024];
    size_t head = length < 126 ? 2 : 4;
    if (length + 8 > sizeof bytes)
        return false;
    bytes[0] = (char)(0x80 | opcode);
    bytes[1] = (char)(0x80 | (head == 2 ? length : 126));
    if (head == 4) {
        bytes[2] = (char)(length >> 8);
        bytes[3] = (char)length;
    }
    memset(bytes + head, 0, 4);
    memcpy(bytes + head + 4, payload, length);
    return transmit(peer, bytes, head + 4 + length);
}

static bool text(struct peer *peer, const char *payload) {
    return frame(peer, 1, payload, strlen(payload));
}

/* `pattern` with the channel's number for its "%". */
static void numbered(char *out, size_t room, const char *pattern, const struct peer *peer) {
    const char *mark = strchr(pattern, '%');
    if (mark == NULL)
        snprintf(out, room, "%s", pattern);
    else
        snprintf(out, room, "%.*s%u%s", (int)(mark - pattern), pattern,
                 peer->number % peer->group->channels, mark + 1);
}

void peer_connect(struct peer *peer, uint64_t event, const struct position *since) {
    (void)since;
    int yes = 1;
    struct sockaddr_in here = {.sin_family = AF_INET};
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)server_port)};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + peer->number % SOURCES);
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (peer->fd < 0) {
        perror("socket");
        exit(1);
    }
    peer->state = CONNECTING;
    peer->chunk_part = SIZE;
    peer->chunk_left = 0;
    in_progress++;
    setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    setsockopt(peer->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (peer->group->behaviour == STALLS) {
        int bytes = 8192; /* else the kernel buffers megabytes for a client that never reads */
        setsockopt(peer->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    }
    if (bind(peer->fd, (struct sockaddr *)&here, sizeof here) ||
        (connect(peer->fd, (struct sockaddr *)&there, sizeof there) && errno != EINPROGRESS)) {
        ended(peer, errno);
        return;
    }
    struct epoll_event wanted = {.events = EPOLLOUT, .data.u64 = event};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, peer->fd, &wanted);
}

static bool polls(const struct peer *peer) {
    return (peer->group->protocol == POLLING || peer->group->protocol == UPGRADE) &&
           peer->request != UPGRADED;
}

/* A GET of Engine.IO, or a POST if there is a packet. */
static void request(struct peer *peer, enum request next, const char *packet) {
    char bytes[1024], length[128] = "";
    if (packet)
        snprintf(length, sizeof length,
                 "Content-Type: text/plain;charset=UTF-8\r\nContent-Length: %zu\r\n",
                 strlen(packet));
    int size = snprintf(bytes, sizeof bytes,
                        "%s %s&transport=polling%s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
                        "Accept: */*\r\n%s\r\n%s",
                        packet ? "POST" : "GET", peer->group->path, peer->sid[0] ? "&sid=" : "",
                        peer->sid, server_port, length, packet ? packet : "");
    peer->request = (uint8_t)next;
    if (!transmit(peer, bytes, (size_t)size))
        ended(peer, errno);
}

static void greet(struct peer *peer, uint64_t event, const struct position *since) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(peer->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        ended(peer, error);
        return;
    }
    struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = event};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, peer->fd, &wanted);
    if (polls(peer)) {
        peer->state = GREETING;
        request(peer, OPENING, NULL);
        return;
    }
    char path[512], bytes[1280], query[192] = "";
    numbered(path, sizeof path, peer->group->path, peer);
    if (since && peer->group->protocol != CENTRIFUGE)
        snprintf(query, sizeof query, "%ssince=%s", strchr(path, '?') ? "&" : "?", since->id);
    if (peer->request == UPGRADED)
        snprintf(query, sizeof query, "&transport=websocket&sid=%s", peer->sid);
    const char *upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
                          "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ";
    const char *more = peer->group->deflate
                           ? "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
                           : "\r\n";
    bool sse = peer->group->protocol == SSE;
    int length = snprintf(bytes, sizeof bytes,
                          "GET %s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s%s%s\r\n", path, query,
                          server_port, sse ? "Accept: text/event-stream\r\n" : upgrade,
                          sse ? "" : KEY, sse ? "" : more);
    peer->state = HEAD;
    if (!transmit(peer, bytes, (size_t)length))
        ended(peer, errno);
}

static uint64_t digits(const char **at, const char *end) {
    uint64_t value = 0;
    while (*at < end && **at >= '0' && **at <= '9')
        value = value * 10 + (uint64_t)(*(*at)++ - '0');
    return value;
}

/* Count a publication; a `stamp` of 0 could not be read. */
static void delivered(struct peer *peer, uint64_t seq, uint64_t stamp, uint64_t now) {
    struct group *group = peer->group;
    group->deliveries++;
    if (stamp)
        histogram_add(&group->times, now > stamp ? (now - stamp) / 1000 : 0);
    if (peer->expected && seq < peer->expected) {
        group->duplicates++;
        return;
    }
    if (peer->expected)
        group->missing += seq - peer->expected;
    peer->expected = seq + 1;
    if (group->passes)
        passes_arrived(group->passes, seq, stamp, now);
    if (group->behaviour == PINGS && frame(peer, 9, "ping", 4))
        group->pings++;
}

/* Find the next event from `at`, and move that behind its numbers; false without an event. */
static bool event_in(struct peer *peer, const char **at, const char *end, uint64_t *seq,
                     uint64_t *stamp) {
    const char *found;
    while ((found = memmem(*at, (size_t)(end - *at), "\"seq\":", 6)) != NULL) {
        *at = found + 6;
        *seq = digits(at, end);
        if (end - *at < 9 || memcmp(*at, ",\"stamp\":", 9) != 0) {
            peer->group->bad++;
            continue;
        }
        *at += 9;
        *stamp = digits(at, end);
        return true;
    }
    return false;
}

/* Count all events in a text, at any place. */
static void scan(struct peer *peer, const char *at, const char *end, uint64_t now) {
    uint64_t seq, stamp;
    while (peer->fd >= 0 && event_in(peer, &at, end, &seq, &stamp))
        delivered(peer, seq, stamp, now);
}

static bool holds(const char *at, const char *end, const char *word) {
    return memmem(at, (size_t)(end - at), word, strlen(word)) != NULL;
}

static void subscribe(struct peer *peer, const struct position *since) {
    char channel[160], command[512], from[192] = "";
    numbered(channel, sizeof channel, peer->group->channel, peer);
    if (since)
        snprintf(from, sizeof from, ",\"recover\":true,\"epoch\":\"%s\",\"offset\":%llu",
                 since->epoch, (unsigned long long)since->offset);
    snprintf(command, sizeof command, "{\"id\":2,\"subscribe\":{\"channel\":\"%s\"%s}}", channel,
             from);
    peer->state = SUBSCRIBING;
    if (!text(peer, command))
        gone(peer);
}

static void centrifuge_line(struct peer *peer, const char *at, const char *end, uint64_t event,
                            const struct position *since, uint64_t now) {
    if (end - at == 2 && memcmp(at, "{}", 2) == 0) {
        if (text(peer, "{}"))
            peer->group->answered++;
    } else if (peer->state == GREETING && holds(at, end, "\"connect\":"))
        subscribe(peer, since);
    else {
        if (peer->state == SUBSCRIBING && holds(at, end, "\"subscribe\":"))
            is_ready(peer, event);
        if (holds(at, end, "\"error\":"))
            peer->group->bad++;
        scan(peer, at, end, now);
    }
}

static void message(struct peer *peer, const char *at, const char *end, uint64_t event,
                    const struct position *since, uint64_t now) {
    switch (peer->group->protocol) {
    case CENTRIFUGE:
        while (at < end && peer->fd >= 0) {
            const char *stop = memchr(at, '\n', (size_t)(end - at));
            centrifuge_line(peer, at, stop ? stop : end, event, since, now);
            at = stop ? stop + 1 : end;
        }
        break;
    case SOCKETIO:
    case UPGRADE:
        if (end - at == 6 && memcmp(at, "3probe", 6) == 0) {
            if (text(peer, "5"))
                is_ready(peer, event);
            else
                gone(peer);
        } else if (end > at && *at == '0') {
            if (!text(peer, "40"))
                gone(peer);
        } else if (end > at && *at == '2')
            peer->group->answered += text(peer, "3");
        else if (end - at > 1 && memcmp(at, "40", 2) == 0)
            is_ready(peer, event);
        else
            scan(peer, at, end, now);
        break;
    case STREAM:
        if (peer->state != READY && holds(at, end, "{\"subscribed\":"))
            is_ready(peer, event);
        if (holds(at, end < at + 16 ? end : at + 16, "{\"reset\":"))
            peer->group->bad++;
        scan(peer, at, end, now);
        break;
    default:
        scan(peer, at, end, now);
    }
}

/* A compressed frame counts as the next publication: it is not decompressed. */
static void compressed(struct peer *peer, uint64_t event, uint64_t now) {
    peer->group->deflated++;
    if (peer->state != READY)
        is_ready(peer, event); /* the first has its position */
    else
        delivered(peer, peer->expected, 0, now);
}

/* Start of a long frame: its event is read now, and the rest only counted. */
static void begin_long(struct peer *peer, const char *at, uint64_t size, bool deflated) {
    peer->long_left = size;
    peer->long_seq = peer->expected;
    peer->long_stamp = 0;
    peer->group->deflated += deflated;
    if (!deflated && !event_in(peer, &at, at + BEGINNING, &peer->long_seq, &peer->long_stamp)) {
        peer->long_seq = NO_EVENT;
        peer->group->bad++;
    }
}

/* The rest of a long frame; returns the number of its bytes. */
static size_t go_on_long(struct peer *peer, size_t length, uint64_t now) {
    size_t taken = length < peer->long_left ? length : (size_t)peer->long_left;
    peer->long_left -= taken;
    if (peer->long_left == 0 && peer->long_seq != NO_EVENT)
        delivered(peer, peer->long_seq, peer->long_stamp, now);
    return taken;
}

/* Whole frames from `at`; returns the number of their bytes. */
static size_t frames(struct peer *peer, const char *at, size_t length, uint64_t event,
                     const struct position *since, uint64_t now) {
    size_t used = 0;
    while (peer->fd >= 0) {
        if (peer->long_left)
            used += go_on_long(peer, length - used, now);
        if (length - used < 2)
            break;
        const unsigned char *head = (const unsigned char *)at + used;
        size_t room = length - used, size = head[1] & 0x7f, skip = 2;
        if (size == 126) {
            skip = 4;
            if (room < skip)
                break;
            size = (size_t)head[2] << 8 | head[3];
        } else if (size == 127) {
            skip = 10;
            if (room < skip)
                break;
            size = 0;
            for (int i = 2; i < 10; i++)
                size = size << 8 | head[i];
        }
        int opcode = head[0] & 0x0f, reserved = head[0] & 0x70;
        bool data = opcode == 1 || opcode == 2;
        bool deflated = data && reserved == 0x40 && peer->group->deflate;
        bool good = head[0] & 0x80 && !(head[1] & 0x80) && (deflated || !reserved);
        bool is_long = good && data && size > LONG;
        if (room - skip < (is_long ? BEGINNING : size))
            break;
        const char *payload = (const char *)head + skip;
        used += skip;
        if (is_long) {
            begin_long(peer, payload, size, deflated);
            continue;
        }
        used += size;
        if (!good)
            peer->group->bad++;
        else if (deflated)
            compressed(peer, event, now);
        else if (data)
            message(peer, payload, payload + size, event, since, now);
        else if (opcode == 9)
            /* No fault if that fails: a server that dropped the client takes no answers. */
            peer->group->answered += frame(peer, 10, payload, size);
        else if (opcode == 10)
            peer->group->pongs++;
        else if (opcode != 8)
            peer->group->bad++;
    }
    return used;
}

static void line(struct peer *peer, const char *at, const char *end, uint64_t now) {
    if (end - at > 6 && memcmp(at, "data: ", 6) == 0)
        scan(peer, at + 6, end, now);
    if (end - at > 6 && memcmp(at, "event: pushserver-reset", 23) == 0)
        peer->group->bad++;
}

/* Removes the framing of chunks and reads whole lines; keeps an incomplete line. */
static void chunks(struct peer *peer, const char *at, size_t length, uint64_t now) {
    const char *end = at + length;
    size_t have = peer->held;
    memcpy(lines, peer->hold, have);
    while (at < end) {
        if (peer->chunk_part == DATA || peer->chunk_part == PLAIN) {
            size_t take = (size_t)(end - at);
            if (peer->chunk_part == DATA && take > peer->chunk_left)
                take = peer->chunk_left;
            memcpy(lines + have, at, take);
            have += take;
            at += take;
            peer->chunk_left -= take;
            if (peer->chunk_part == DATA && peer->chunk_left == 0)
                peer->chunk_part = AFTER_DATA;
            continue;
        }
        char byte = *at++;
        if (peer->chunk_part == AFTER_DATA) {
            if (byte == '\n')
                peer->chunk_part = SIZE;
        } else if (byte == '\n') {
            peer->chunk_part = DATA;
            if (peer->chunk_left == 0) {
                gone(peer);
                return;
            }
        } else if (peer->chunk_part == SIZE) {
            int digit = byte >= '0' && byte <= '9'   ? byte - '0'
                        : byte >= 'a' && byte <= 'f' ? byte - 'a' + 10
                        : byte >= 'A' && byte <= 'F' ? byte - 'A' + 10
                                                     : -1;
            if (digit >= 0)
                peer->chunk_left = peer->chunk_left * 16 + (uint64_t)digit;
            else
                peer->chunk_part = EXTENSION;
        }
    }
    const char *from = lines, *all = lines + have, *stop;
    while ((stop = memchr(from, '\n', (size_t)(all - from))) != NULL) {
        line(peer, from, stop, now);
        from = stop + 1;
    }
    peer->held = (uint32_t)(all - from);
    if (peer->held) {
        peer->hold = realloc(peer->hold, peer->held);
        memcpy(peer->hold, from, peer->held);
    }
}

/* The head of the response; returns the number of its bytes, 0 if it is incomplete. */
static size_t head(struct peer *peer, size_t length, uint64_t event) {
    char *end = memmem(raw, length, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    *end = 0;
    bool sse = peer->group->protocol == SSE;
    const char *status = sse ? "HTTP/1.1 200" : "HTTP/1.1 101";
    if (strncmp(raw, status, 12) != 0 || !(sse || strcasestr(raw, ACCEPT))) {
        if (peer->group->failed < 3)
            fprintf(stderr, "load: refused: %.200s\n", raw);
        gone(peer);
        return length;
    }
    if (peer->group->deflate && !strcasestr(raw, "permessage-deflate")) {
        if (peer->group->failed < 3)
            fprintf(stderr, "load: the server does not compress: %.300s\n", raw);
        gone(peer);
        return length;
    }
    if (sse && !strcasestr(raw, "transfer-encoding: chunked"))
        peer->chunk_part = PLAIN;
    peer->state = GREETING;
    if (sse || peer->group->protocol == WEBSOCKET)
        is_ready(peer, event);
    else if (peer->group->protocol == CENTRIFUGE && !text(peer, "{\"id\":1,\"connect\":{}}"))
        gone(peer);
    else if (peer->request == UPGRADED && !text(peer, "2probe"))
        gone(peer);
    return (size_t)(end + 4 - raw);
}

/* Join the chunks of a body; returns the end of the joined bytes, NULL if it is incomplete. */
static char *joined(char *body, char *end) {
    char *from = body, *to = body;
    if (end - body < 5 || memcmp(end - 5, "0\r\n\r\n", 5) != 0)
        return NULL;
    for (;;) {
        char *stop = memmem(from, (size_t)(end - from), "\r\n", 2);
        if (stop == NULL)
            return NULL;
        size_t size = strtoul(from, NULL, 16);
        from = stop + 2;
        if ((size_t)(end - from) < size + 2)
            return NULL;
        if (size == 0)
            return to;
        memmove(to, from, size);
        to += size;
        from += size + 2;
    }
}

/* The packets of a payload of Engine.IO: sends the next request. */
static void payload(struct peer *peer, char *at, char *end, uint64_t event,
                    const struct position *since, uint64_t now) {
    bool pinged = false, admitted = false;
    if (peer->request == POSTED) {
        request(peer, POLLED, NULL);
        return;
    }
    while (at < end && peer->fd >= 0) {
        char *stop = memchr(at, 0x1e, (size_t)(end - at));
        stop = stop ? stop : end;
        if (peer->request == OPENING) {
            char *sid = memmem(at, (size_t)(stop - at), "\"sid\":\"", 7);
            if (*at != '0' || sid == NULL) {
                gone(peer);
                return;
            }
            snprintf(peer->sid, sizeof peer->sid, "%.*s", (int)strcspn(sid + 7, "\""), sid + 7);
            request(peer, POSTED, "40");
            return;
        }
        pinged = pinged || *at == '2';
        admitted = admitted || (stop - at > 1 && memcmp(at, "40", 2) == 0);
        scan(peer, at, stop, now);
        at = stop + 1;
    }
    if (peer->fd < 0)
        return;
    if (admitted && peer->group->protocol == UPGRADE) {
        in_progress--;
        peer_close(peer);
        peer->request = UPGRADED;
        peer_connect(peer, event, since);
        return;
    }
    if (admitted)
        is_ready(peer, event);
    peer->group->answered += pinged;
    request(peer, pinged ? POSTED : POLLED, pinged ? "3" : NULL);
}

/* An answer to one request; returns the number of its bytes, 0 if it is incomplete. */
static size_t answer(struct peer *peer, size_t length, uint64_t event,
                     const struct position *since, uint64_t now) {
    char *body = memmem(raw, length, "\r\n\r\n", 4), *end = raw + length;
    if (body == NULL)
        return 0;
    *body = 0;
    body += 4;
    char *size = strcasestr(raw, "\r\ncontent-length:");
    if (size) {
        size_t bytes = strtoul(size + 17, NULL, 10);
        end = (size_t)(end - body) < bytes ? NULL : body + bytes;
    } else
        end = joined(body, end);
    if (end == NULL) {
        body[-4] = '\r';
        return 0;
    }
    if (strncmp(raw, "HTTP/1.1 200", 12) != 0) {
        if (peer->group->failed < 3)
            fprintf(stderr, "load: refused: %.200s %.*s\n", raw, (int)(end - body), body);
        gone(peer);
        return length;
    }
    peer->held = 0;
    payload(peer, body, end, event, since, now);
    return length;
}

static void receive(struct peer *peer, uint64_t event, const struct position *since) {
    bool sse = peer->group->protocol == SSE && peer->state > HEAD;
    size_t have = sse ? 0 : peer->held;
    size_t room = peer->group->behaviour == CRAWLS ? CRAWL_BYTES : READ_BYTES;
    if (have + room > ROOM) {
        peer->group->bad++;
        gone(peer);
        return;
    }
    memcpy(raw, peer->hold, have);
    ssize_t got = recv(peer->fd, raw + have, room, 0);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            ended(peer, got == 0 ? 0 : errno);
        return;
    }
    uint64_t now = monotonic_ns();
    peer->group->bytes += (uint64_t)got;
    size_t length = have + (size_t)got, used = 0;
    if (polls(peer)) {
        /* One answer at a time: the next request is sent after it. */
        used = answer(peer, length, event, since, now);
        if (used == 0)
            goto keep;
        return;
    }
    if (peer->state == HEAD) {
        used = head(peer, length, event);
        if (used == 0)
            goto keep;
        peer->held = 0;
    }
    if (peer->fd < 0)
        return;
    if (peer->group->protocol == SSE) {
        chunks(peer, raw + used, length - used, now);
        return;
    }
    used += frames(peer, raw + used, length - used, event, since, now);
    if (peer->fd < 0)
        return;
keep:
    peer->held = (uint32_t)(length - used);
    if (peer->held) {
        peer->hold = realloc(peer->hold, peer->held);
        memcpy(peer->hold, raw + used, peer->held);
    }
}

void peer_ready(struct peer *peer, uint64_t event, const struct position *since) {
    if (peer->state == CONNECTING)
        greet(peer, event, since);
    else if (peer->state == READY && peer->group->behaviour == STALLS)
        gone(peer); /* wait only for its end */
    else if (peer->state == READY && peer->group->behaviour == CRAWLS) {
        uint64_t now = monotonic_ns();
        if (now < peer->read_at)
            return;
        peer->read_at = now + CRAWL_NS;
        receive(peer, event, since);
    } else
        receive(peer, event, since);
}
