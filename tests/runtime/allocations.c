/* Counts all that a process allocates, for tests: preloaded, it stands between the process and glibc's allocator.

Four kinds are told apart: what posix_memalign gives (TVM's memory of the CPU: tensors, the virtual machine's pool and
workspaces), what other aligned functions give (C++'s aligned new), what malloc, calloc and realloc give, and anonymous
mappings. Of aligned blocks and mappings the bytes that were asked for are counted, of the others the usable ones. What
glibc maps for itself (blocks of malloc, stacks of threads, libraries) is no call that could be seen, and the blocks are
counted where they are handed out. */

#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *block, size_t size);
void *__libc_memalign(size_t alignment, size_t size);
void __libc_free(void *block);

enum { DEVICE, ALIGNED, ORDINARY, MAPPED, KINDS }; /* as `counted.py` has them */

static struct {
  atomic_llong live, peak, blocks;
} counts[KINDS];

static void add(int kind, long long bytes, int blocks) {
  atomic_fetch_add(&counts[kind].blocks, blocks);
  long long live = atomic_fetch_add(&counts[kind].live, bytes) + bytes;
  long long peak = atomic_load(&counts[kind].peak);
  while (live > peak && !atomic_compare_exchange_weak(&counts[kind].peak, &peak, live)) {
  }
}

/* Blocks whose size is not the allocator's to say, by address: open addressing, linear probing. */
#define PLACES (1u << 20)
static struct {
  uintptr_t address;
  size_t size;
  int kind;
} table[PLACES];
static unsigned used;
static atomic_flag lock = ATOMIC_FLAG_INIT;

static unsigned home(uintptr_t address) { return (unsigned)((address >> 4) * 0x9E3779B97F4A7C15ull >> 44); }

static unsigned after(unsigned place) { return (place + 1) & (PLACES - 1); }

static void acquire(void) {
  while (atomic_flag_test_and_set_explicit(&lock, memory_order_acquire)) {
  }
}

static void release(void) { atomic_flag_clear_explicit(&lock, memory_order_release); }

static void note(void *block, size_t size, int kind) {
  if (!block) return;
  acquire();
  if (++used > PLACES / 2) abort();
  unsigned place = home((uintptr_t)block);
  while (table[place].address) place = after(place);
  table[place].address = (uintptr_t)block;
  table[place].size = size;
  table[place].kind = kind;
  release();
  add(kind, (long long)size, 1);
}

/* Takes a block out of the table and the counts; 0 where it is not in it. */
static int forget(void *block) {
  acquire();
  unsigned place = home((uintptr_t)block);
  while (table[place].address && table[place].address != (uintptr_t)block) place = after(place);
  if (!table[place].address) {
    release();
    return 0;
  }
  size_t size = table[place].size;
  int kind = table[place].kind;
  /* What stands behind moves up as far as its own home allows, so that probing still finds it. */
  for (unsigned next = after(place); table[next].address; next = after(next)) {
    if (((next - home(table[next].address)) & (PLACES - 1)) >= ((next - place) & (PLACES - 1))) {
      table[place] = table[next];
      place = next;
    }
  }
  table[place].address = 0;
  used--;
  release();
  add(kind, -(long long)size, -1);
  return 1;
}

static void *counted(void *block) {
  if (block) add(ORDINARY, (long long)malloc_usable_size(block), 1);
  return block;
}

void *malloc(size_t size) { return counted(__libc_malloc(size)); }

void *calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size)); }

void free(void *block) {
  if (!block) return;
  if (!forget(block)) add(ORDINARY, -(long long)malloc_usable_size(block), -1);
  __libc_free(block);
}

void *realloc(void *block, size_t size) {
  if (!block) return malloc(size);
  if (!size) {
    free(block);
    return NULL;
  }
  /* Before the call: as soon as it has freed the old block, another thread may get it. */
  long long old = (long long)malloc_usable_size(block);
  if (forget(block)) old = 0;
  else add(ORDINARY, -old, -1);
  void *moved = __libc_realloc(block, size);
  counted(moved ? moved : block);
  return moved;
}

void *reallocarray(void *block, size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    errno = ENOMEM;
    return NULL;
  }
  return realloc(block, bytes);
}

int posix_memalign(void **block, size_t alignment, size_t size) {
  if (alignment < sizeof(void *) || (alignment & (alignment - 1))) return EINVAL;
  void *found = __libc_memalign(alignment, size);
  if (!found) return ENOMEM;
  note(found, size, DEVICE);
  *block = found;
  return 0;
}

void *memalign(size_t alignment, size_t size) {
  void *block = __libc_memalign(alignment, size);
  note(block, size, ALIGNED);
  return block;
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

void *valloc(size_t size) { return memalign((size_t)sysconf(_SC_PAGESIZE), size); }

void *pvalloc(size_t size) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  return memalign(page, (size + page - 1) / page * page);
}

void *mmap(void *wanted, size_t size, int protection, int flags, int file, off_t offset) {
  void *found = (void *)syscall(SYS_mmap, wanted, size, protection, flags, file, offset);
  if (found != MAP_FAILED && (flags & MAP_ANONYMOUS)) {
    if (flags & MAP_FIXED) forget(found);
    note(found, size, MAPPED);
  }
  return found;
}

void *mmap64(void *wanted, size_t size, int protection, int flags, int file, off64_t offset)
    __attribute__((alias("mmap"))); /* offsets have 64 bits anyway, and callers may use either name */

int munmap(void *start, size_t size) {
  forget(start); /* a mapping is taken for gone when its start is */
  return (int)syscall(SYS_munmap, start, size);
}

/* What the tests ask. */
void counted_reset(int kind) { atomic_store(&counts[kind].peak, atomic_load(&counts[kind].live)); }

long long counted_live(int kind) { return atomic_load(&counts[kind].live); }

long long counted_peak(int kind) { return atomic_load(&counts[kind].peak); }

long long counted_blocks(int kind) { return atomic_load(&counts[kind].blocks); }
