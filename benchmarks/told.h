/* What happened between two moments, as it is printed. */
#ifndef TOLD_H
#define TOLD_H

#include "count.h"

/* What had happened at one moment. */
struct moment {
    uint64_t at, cpu, own_cpu, rss, published, deliveries, bytes, answered;
};

extern struct passes passes;

struct moment look(void);
/* To be called often: remembers the most memory that was seen since the last span was printed. */
void sample_memory(void);
void clear_times(void);
/* The inside of a JSON object; how many were `closed` is said as of now. */
void print_span(const struct moment *from, const struct moment *to);
void print_all_times(void);

#endif
