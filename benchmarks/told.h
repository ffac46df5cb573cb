/* The report on the time between two moments. */
#ifndef TOLD_H
#define TOLD_H

#include "count.h"

/* The counters at one moment. */
struct moment {
    uint64_t at, own_cpu, rss, published, deliveries, bytes, answered;
    uint64_t cpu[PROCESSES]; /* of each process */
};

extern struct passes passes;

struct moment look(void);
/* Call this often: it keeps the maximum of the memory since the last printed span. */
void sample_memory(void);
void clear_times(void);
/* The inside of a JSON array: the memory of each process. */
void print_memory(void);
/* The inside of a JSON object; `closed` is the current number. */
void print_span(const struct moment *from, const struct moment *to);
void print_all_times(void);

#endif
