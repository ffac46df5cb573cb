#include "options.h"

struct wanted wanted = {.settle = 0.5, .rate = 10, .warmup = 1, .window = 3, .size = 98,
                        .windows = 3, .ramp = 32, .storm_ramp = 2000, .posters = 1};
struct feed *feed;
struct server server;
struct group groups[GROUPS];
uint32_t group_count;

const char *const behaviours[] = {"reads", "stalls", "crawls", "pings", NULL};

static int choice(const char *text, const char *const *names, const char *what) {
    for (int i = 0; names[i]; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    fprintf(stderr, "load: unknown %s: %s\n", what, text);
    exit(2);
}

static void add_group(char *text) {
    static const char *const protocols[] = {"websocket", "stream",  "centrifuge", "sse",
                                            "socketio",  "polling", "upgrade",    NULL};
    if (group_count == GROUPS) {
        fprintf(stderr, "load: more than %d groups\n", GROUPS);
        exit(2);
    }
    struct group *group = &groups[group_count++];
    group->channels = 1;
    for (char *part = strtok(text, ","); part; part = strtok(NULL, ",")) {
        char *equals = strchr(part, '=');
        char *value = equals ? equals + 1 : part + strlen(part);
        if (equals)
            *equals = 0;
        if (strcmp(part, "protocol") == 0)
            group->protocol = (enum protocol)choice(value, protocols, "protocol");
        else if (strcmp(part, "behaviour") == 0)
            group->behaviour = (enum behaviour)choice(value, behaviours, "behaviour");
        else if (strcmp(part, "clients") == 0)
            group->count = (uint32_t)atoi(value);
        else if (strcmp(part, "channels") == 0)
            group->channels = (uint32_t)atoi(value);
        else if (strcmp(part, "path") == 0)
            snprintf(group->path, sizeof group->path, "%s", value);
        else if (strcmp(part, "channel") == 0)
            snprintf(group->channel, sizeof group->channel, "%s", value);
        else if (strcmp(part, "storms") == 0)
            group->storms = true;
        else if (strcmp(part, "once") == 0)
            group->once = true;
        else if (strcmp(part, "deflate") == 0)
            group->deflate = true;
        else {
            fprintf(stderr, "load: unknown key of a group: %s\n", part);
            exit(2);
        }
    }
    if (group->deflate && group->protocol != WEBSOCKET && group->protocol != STREAM) {
        fprintf(stderr, "load: with deflate the protocol is websocket or stream\n");
        exit(2);
    }
}

static void option(char *text) {
    char *value = strchr(text, '=');
    if (strncmp(text, "--", 2) != 0 || value == NULL) {
        fprintf(stderr, "load: expected --NAME=VALUE, got %s\n", text);
        exit(2);
    }
    *value++ = 0;
    const char *name = text + 2;
    struct {
        const char *name;
        double *value;
    } numbers[] = {{"settle", &wanted.settle}, {"idle", &wanted.idle},     {"rate", &wanted.rate},
                   {"warmup", &wanted.warmup}, {"window", &wanted.window},
                   {"drain", &wanted.drain},   {NULL, NULL}};
    for (int i = 0; numbers[i].name; i++)
        if (strcmp(name, numbers[i].name) == 0) {
            *numbers[i].value = strtod(value, NULL);
            return;
        }
    if (strcmp(name, "port") == 0)
        server_port = atoi(value);
    else if (strcmp(name, "feed") == 0)
        feed = feed_open(value);
    else if (strcmp(name, "pid") == 0)
        for (char *pid = strtok(value, ","); pid && server.count < PROCESSES;
             pid = strtok(NULL, ","))
            server.pid[server.count++] = atoi(pid);
    else if (strcmp(name, "group") == 0)
        add_group(value);
    else if (strcmp(name, "windows") == 0)
        wanted.windows = (uint32_t)atoi(value);
    else if (strcmp(name, "ramp") == 0)
        wanted.ramp = (uint32_t)atoi(value);
    else if (strcmp(name, "storm-ramp") == 0)
        wanted.storm_ramp = (uint32_t)atoi(value);
    else if (strcmp(name, "size") == 0)
        wanted.size = strtoull(value, NULL, 10);
    else if (strcmp(name, "storm") == 0)
        wanted.storm = strtoull(value, NULL, 10);
    else if (strcmp(name, "once") == 0)
        wanted.once = strtoull(value, NULL, 10);
    else if (strcmp(name, "post") == 0)
        wanted.post = value;
    else if (strcmp(name, "posters") == 0)
        wanted.posters = (uint32_t)atoi(value);
    else {
        fprintf(stderr, "load: unknown option --%s\n", name);
        exit(2);
    }
}

void options_read(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        option(argv[i]);
    if (!server_port || feed == NULL) {
        fprintf(stderr, "load: --port and --feed are needed\n");
        exit(2);
    }
    if ((wanted.storm || wanted.once) && wanted.post == NULL) {
        fprintf(stderr, "load: --storm and --once need --post\n");
        exit(2);
    }
}
