/* Publishing by HTTP over persistent connections. */
#ifndef POST_H
#define POST_H

#include "feed.h"
#include "peer.h"

enum { POSTERS = 64, POSTER_EVENT = 1u << 31 };

/* `count` connections that post events to `path`; a "%" in it is removed. */
void posters_open(uint32_t count, const char *path);
/* Post the due events at the rate of the feed, one request at a time on each connection. */
void posters_post(struct feed *feed);
/* Read an answer. */
void poster_ready(uint32_t number);
uint64_t posters_failed(void);
/* Start to post one event of any length; call `post_goes_on` until it returns true. */
void post_begin(const char *path, uint64_t seq, uint64_t size);
bool post_goes_on(void);
/* The position of the publication of the last complete post. */
struct position posted(void);

#endif
