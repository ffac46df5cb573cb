#define _GNU_SOURCE
#include "count.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FOLLOWED = 1 << 16, FINE = 64 };

static struct {
    uint64_t seq, count;
} followed[FOLLOWED];

static unsigned bucket_of(uint64_t value) {
    if (value < FINE)
        return (unsigned)value;
    unsigned shift = 63 - (unsigned)__builtin_clzll(value) - 5;
    unsigned bucket = (shift << 5) + (unsigned)(value >> shift);
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static uint64_t value_of(unsigned bucket) {
    if (bucket < FINE)
        return bucket;
    unsigned shift = (bucket >> 5) - 1;
    return (uint64_t)(bucket - (shift << 5)) << shift;
}

void histogram_add(struct histogram *histogram, uint64_t microseconds) {
    histogram->count++;
    histogram->bucket[bucket_of(microseconds)]++;
    if (microseconds > histogram->most)
        histogram->most = microseconds;
}

uint64_t histogram_at(const struct histogram *histogram, double share) {
    uint64_t seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += histogram->bucket[i];
        if (seen && (double)seen >= share * (double)histogram->count)
            return value_of(i);
    }
    return 0;
}

void histogram_clear(struct histogram *histogram) { memset(histogram, 0, sizeof *histogram); }

void passes_arrived(struct passes *passes, uint64_t seq, uint64_t stamp_ns, uint64_t now_ns) {
    if (!passes->wanted)
        return;
    unsigned place = seq % FOLLOWED;
    if (followed[place].seq != seq) {
        followed[place].seq = seq;
        followed[place].count = 0;
        passes->begun++;
    }
    if (++followed[place].count == passes->wanted) {
        passes->complete++;
        if (stamp_ns)
            histogram_add(&passes->times, (now_ns - stamp_ns) / 1000);
    }
}

/* The CPU clock of the process: nanoseconds, all threads, also ended ones. */
uint64_t process_cpu_ns(const struct server *server, int index) {
    clockid_t clock;
    struct timespec used;
    if (clock_getcpuclockid(server->pid[index], &clock) || clock_gettime(clock, &used))
        return 0;
    return (uint64_t)used.tv_sec * 1000000000ull + (uint64_t)used.tv_nsec;
}

uint64_t process_pss_kb(const struct server *server, int index) {
    char path[64], line[256];
    unsigned long found = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", server->pid[index]);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 0;
    while (!found && fgets(line, sizeof line, file))
        sscanf(line, "Pss: %lu", &found);
    fclose(file);
    return found;
}

uint64_t server_rss_kb(const struct server *server) {
    uint64_t sum = 0;
    for (int i = 0; i < server->count; i++) {
        char path[64];
        unsigned long size, resident;
        snprintf(path, sizeof path, "/proc/%d/statm", server->pid[i]);
        FILE *file = fopen(path, "r");
        if (file == NULL)
            continue;
        if (fscanf(file, "%lu %lu", &size, &resident) == 2)
            sum += resident * (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
        fclose(file);
    }
    return sum;
}

uint64_t kernel_tcp_kb(void) {
    char line[256];
    unsigned long pages = 0;
    FILE *file = fopen("/proc/net/sockstat", "r");
    if (file == NULL)
        return 0;
    while (fgets(line, sizeof line, file)) {
        char *at = strncmp(line, "TCP:", 4) == 0 ? strstr(line, " mem ") : NULL;
        if (at && sscanf(at, " mem %lu", &pages) == 1)
            break;
    }
    fclose(file);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE) / 1024;
}
