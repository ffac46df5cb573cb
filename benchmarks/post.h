/* Publishing by HTTP over connections that are kept. */
#ifndef POST_H
#define POST_H

#include "feed.h"
#include "peer.h"

enum { POSTERS = 64, POSTER_EVENT = 1u << 31 };

/* `count` connections that post events to `path`; a "%" in it stands for nothing. */
void posters_open(uint32_t count, const char *path);
/* Post what is due at the feed's rate, one request at a time on each connection. */
void posters_post(struct feed *feed);
/* An answer can be read. */
void poster_ready(uint32_t number);
uint64_t posters_failed(void);
/* Begin to post one event, however long; `post_goes_on` is called until it says that it ended. */
void post_begin(const char *path, uint64_t seq, uint64_t size);
bool post_goes_on(void);
/* Where the publication of the last post that went on to its end stands. */
struct position posted(void);

#endif
