/* Counters: histograms of times, completed publications, the cost of the server. */
#ifndef COUNT_H
#define COUNT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Times in microseconds, exact below 64 and within 3 % above. */
enum { BUCKETS = 2048 };
struct histogram {
    uint64_t count, most, bucket[BUCKETS];
};
void histogram_add(struct histogram *histogram, uint64_t microseconds);
uint64_t histogram_at(const struct histogram *histogram, double share);
void histogram_clear(struct histogram *histogram);

/* Publications of the measured group; complete when all clients have them. */
struct passes {
    uint64_t wanted; /* deliveries of a complete publication; 0: not counted */
    uint64_t begun, complete;
    struct histogram times; /* from the stamp until the last client has it */
};
/* A stamp of 0 could not be read: counted, not timed. */
void passes_arrived(struct passes *passes, uint64_t seq, uint64_t stamp_ns, uint64_t now_ns);

/* The server's processes. */
enum { PROCESSES = 16 };
struct server {
    int pid[PROCESSES];
    int count;
};
/* The CPU time of the process with this index, and its proportional share of memory. */
uint64_t process_cpu_ns(const struct server *server, int index);
uint64_t process_pss_kb(const struct server *server, int index);
uint64_t server_rss_kb(const struct server *server);
/* The memory of the queues of all TCP sockets of the machine. */
uint64_t kernel_tcp_kb(void);

#endif
