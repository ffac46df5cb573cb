/* The wanted rate and the number of published events: 24 bytes that the load tool
 * and the server share through a file. The same layout is in servers/feed.py and feed.js. */
#ifndef FEED_H
#define FEED_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

struct feed {
    volatile double rate;        /* publications a second; 0: paused; infinity: as fast as possible */
    volatile uint64_t published; /* the number so far, over all channels */
    volatile uint64_t size;      /* bytes of the JSON text of one event */
};

#define FEED_PATTERN "{\"seq\":%llu,\"stamp\":%llu,\"pad\":\""

static inline uint64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static inline struct feed *feed_open(const char *path) {
    int fd = open(path, O_RDWR);
    if (fd < 0) {
        perror(path);
        exit(2);
    }
    void *memory = mmap(NULL, sizeof(struct feed), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return memory;
}

/* One event of `size` bytes (or as few as its numbers need) into `out`; returns its length. */
static inline size_t feed_event(char *out, uint64_t seq, uint64_t size) {
    size_t used = (size_t)sprintf(out, FEED_PATTERN, (unsigned long long)seq,
                                  (unsigned long long)monotonic_ns());
    size_t pad = size > used + 2 ? size - used - 2 : 0;
    memset(out + used, 'x', pad);
    memcpy(out + used + pad, "\"}", 2);
    return used + pad + 2;
}

#endif
