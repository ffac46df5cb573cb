/* One client of the server: its handshake, its frames and its counters. */
#ifndef PEER_H
#define PEER_H

#include "count.h"

#include <netinet/in.h>

enum protocol {
    WEBSOCKET,  /* any text frame may be a publication; ready after the handshake */
    STREAM,     /* pushserver's raw WebSocket: ready when it has its position */
    CENTRIFUGE, /* connect and subscribe commands; answers pings */
    SSE,        /* an event stream over chunked HTTP */
    SOCKETIO,   /* Engine.IO 4 over WebSocket, the default namespace; answers pings */
    POLLING,    /* the same by polling, over one connection of HTTP */
    UPGRADE     /* connects as POLLING, and then upgrades to a WebSocket */
};

/* The requests of one client that polls: what is answered next. */
enum request { OPENING, POSTED, POLLED, UPGRADED };

enum behaviour { READS, STALLS, CRAWLS, PINGS };

struct position {
    char id[128], epoch[64];
    uint64_t offset;
};

struct group {
    enum protocol protocol;
    enum behaviour behaviour;
    uint32_t count, channels;
    bool storms;
    bool once;    /* gets only the long publication */
    bool deflate; /* offers permessage-deflate */
    char path[256], channel[128]; /* with "%" for the number of the channel, if there are several */
    uint64_t ready, failed, closed, deliveries, missing, duplicates, bad, pings, pongs, bytes;
    uint64_t answered; /* pings of the server */
    uint64_t deflated; /* frames */
    struct histogram times; /* of the window: from the stamp until read */
    struct passes *passes;
};

enum state { IDLE, CONNECTING, HEAD, GREETING, SUBSCRIBING, READY, CLOSED };

struct peer {
    struct group *group;
    uint32_t number; /* within its group */
    int fd;
    enum state state;
    uint8_t chunk_part, request;
    char sid[64]; /* of Engine.IO by polling */
    uint64_t chunk_left;
    uint64_t expected; /* the next sequence number; 0: any */
    uint64_t read_at;  /* of a client that crawls */
    uint64_t long_left, long_seq, long_stamp; /* of a frame that is too long to store */
    uint32_t held;     /* bytes of an unfinished frame or line */
    char *hold;
};

extern int epoll_fd;
extern int server_port;
extern uint32_t in_progress; /* connects that are neither ready nor failed */

/* Start to connect; `event` is the event of epoll. */
void peer_connect(struct peer *peer, uint64_t event, const struct position *since);
/* The socket can be written (while connecting) or read. */
void peer_ready(struct peer *peer, uint64_t event, const struct position *since);
/* Close from this side. */
void peer_close(struct peer *peer);

#endif
