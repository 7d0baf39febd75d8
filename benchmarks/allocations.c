// Counts the bytes that torch's CPU allocator holds: every block from posix_memalign with torch's alignment that is not freed yet. oneDNN's
// own workspaces have another alignment. Compiled and preloaded by benchmarks/allocations.py.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define SLOTS (1u << 20)  // more than the blocks that are ever alive at once

#define TORCH_ALIGNMENT 64  // c10/core/alignment.h, gAlignment

static struct { uintptr_t key; size_t size; } table[SLOTS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long long now, most;

static unsigned slot_of(uintptr_t key) { return (unsigned)((key >> 6) * 2654435761u) & (SLOTS - 1); }

static void insert(uintptr_t key, size_t size) {
    unsigned i = slot_of(key);
    while (table[i].key > 1 && table[i].key != key) i = (i + 1) & (SLOTS - 1);
    table[i].key = key;
    table[i].size = size;
    now += (long long)size;
    if (now > most) most = now;
}

static void erase(uintptr_t key) {
    for (unsigned i = slot_of(key); table[i].key; i = (i + 1) & (SLOTS - 1)) {
        if (table[i].key != key) continue;
        now -= (long long)table[i].size;
        table[i].key = 1;  // a slot that was used: a search goes on behind it
        return;
    }
}

int posix_memalign(void **out, size_t alignment, size_t size) {
    static int (*next)(void **, size_t, size_t);
    if (!next) next = (int (*)(void **, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
    int failed = next(out, alignment, size);
    if (!failed && alignment == TORCH_ALIGNMENT) {
        pthread_mutex_lock(&lock);
        insert((uintptr_t)*out, size);
        pthread_mutex_unlock(&lock);
    }
    return failed;
}

void free(void *block) {
    static void (*next)(void *);
    if (!next) next = (void (*)(void *))dlsym(RTLD_NEXT, "free");
    if (block && !((uintptr_t)block & (TORCH_ALIGNMENT - 1))) {
        pthread_mutex_lock(&lock);
        erase((uintptr_t)block);
        pthread_mutex_unlock(&lock);
    }
    next(block);
}

long long held_bytes(void) { return now; }
long long most_bytes(void) { return most; }
void restart_most(void) { most = now; }
