/* The options of the command line. Times in seconds. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include "feed.h"
#include "peer.h"

enum { GROUPS = 8 };

struct wanted {
    double settle, idle, rate, warmup, window, drain;
    uint64_t size, storm, once; /* bytes; missed publications; bytes of the long publication */
    uint32_t windows, ramp, storm_ramp, posters;
    const char *post;
};

extern struct wanted wanted;
extern struct feed *feed;
extern struct server server;
extern struct group groups[GROUPS];
extern uint32_t group_count;

extern const char *const behaviours[];

/* Ends the program at an unknown option. */
void options_read(int argc, char **argv);

#endif
