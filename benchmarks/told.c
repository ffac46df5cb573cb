#include "told.h"

#include "options.h"

enum { SAMPLE_NS = 50000000 };

/* The maximum since the last print. */
static struct {
    uint64_t rss, tcp;
} peak;

struct passes passes;

struct moment look(void) {
    struct timespec own;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
    struct moment moment = {
        .at = monotonic_ns(),
        .own_cpu = (uint64_t)own.tv_sec * 1000000000ull + (uint64_t)own.tv_nsec,
        .rss = server_rss_kb(&server),
        .published = feed->published,
    };
    for (int i = 0; i < server.count; i++)
        moment.cpu[i] = process_cpu_ns(&server, i);
    for (uint32_t i = 0; i < group_count; i++) {
        moment.deliveries += groups[i].deliveries;
        moment.bytes += groups[i].bytes;
        moment.answered += groups[i].answered;
    }
    return moment;
}

void sample_memory(void) {
    static uint64_t next;
    uint64_t now = monotonic_ns();
    if (now < next)
        return;
    next = now + SAMPLE_NS;
    uint64_t rss = server_rss_kb(&server), tcp = kernel_tcp_kb();
    peak.rss = rss > peak.rss ? rss : peak.rss;
    peak.tcp = tcp > peak.tcp ? tcp : peak.tcp;
}

void clear_times(void) {
    histogram_clear(&passes.times);
    for (uint32_t i = 0; i < group_count; i++)
        histogram_clear(&groups[i].times);
}

static void print_times(const char *name, const struct histogram *times) {
    printf("\"%s\":{\"count\":%llu,\"p50_us\":%llu,\"p99_us\":%llu,\"max_us\":%llu}", name,
           (unsigned long long)times->count, (unsigned long long)histogram_at(times, 0.5),
           (unsigned long long)histogram_at(times, 0.99), (unsigned long long)times->most);
}

void print_memory(void) {
    for (int i = 0; i < server.count; i++)
        printf("%s%llu", i ? "," : "", (unsigned long long)process_pss_kb(&server, i));
}

void print_span(const struct moment *from, const struct moment *to) {
    uint64_t cpu = 0;
    printf("\"processes_cpu_seconds\":[");
    for (int i = 0; i < server.count; i++) {
        printf("%s%.9f", i ? "," : "", (double)(to->cpu[i] - from->cpu[i]) / 1e9);
        cpu += to->cpu[i] - from->cpu[i];
    }
    printf("],");
    printf("\"seconds\":%.6f,\"cpu_seconds\":%.9f,\"tool_cpu_seconds\":%.9f,"
           "\"published\":%llu,\"deliveries\":%llu,"
           "\"bytes\":%llu,\"answered\":%llu,\"rss_kb\":%llu,\"peak_rss_kb\":%llu,"
           "\"peak_tcp_kb\":%llu",
           (double)(to->at - from->at) / 1e9, (double)cpu / 1e9,
           (double)(to->own_cpu - from->own_cpu) / 1e9,
           (unsigned long long)(to->published - from->published),
           (unsigned long long)(to->deliveries - from->deliveries),
           (unsigned long long)(to->bytes - from->bytes),
           (unsigned long long)(to->answered - from->answered), (unsigned long long)to->rss,
           (unsigned long long)(to->rss > peak.rss ? to->rss : peak.rss),
           (unsigned long long)peak.tcp);
    peak.rss = peak.tcp = 0;
}

void print_all_times(void) {
    print_times("passes", &passes.times);
    printf(",\"groups\":[");
    for (uint32_t i = 0; i < group_count; i++) {
        printf("%s{", i ? "," : "");
        print_times("times", &groups[i].times);
        printf(",\"closed\":%llu}", (unsigned long long)groups[i].closed);
    }
    printf("]");
}
