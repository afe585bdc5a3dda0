/*
 * A C library that fails on demand, for the tests of faults that no program can bring about by itself.
 *
 * Loaded with LD_PRELOAD into a child process, which commands it by way of getsid(2): a call that takes one number,
 * gives one back, and that nobody here has another use for. The commands are those of `Command` in preload.rs.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum command {
    PRESENT = 1,
    FAIL_ONE,
    FAIL_EVERY,
    FAIL_FROM,
    HOLD_ONE,
    LET_GO,
    IS_HELD,
    THREADS,
    LINGER,
    FORK,
    ALLOCATIONS,
    LARGE_ALLOCATIONS,
    HIDE_PROC,
    COARSE_CLOCK,
};

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);

/* ---- forks, and a lock of Rust's own ---- */

/*
 * Rust's std keeps a table of its threads for what it says of a stack overflow, and locks it in the first and the last
 * moments of each. A copy made while another thread holds that lock cannot end a thread any more, whatever the library
 * does. So a fork waits until no thread is there: from its start until it has an alternate signal stack, and from when
 * it gives that up until its start routine returns. One thread forks at a time.
 */
static atomic_int in_std, forks, has_table;
static __thread __attribute__((tls_model("initial-exec"))) int is_in_std;

static void enter_std(void)
{
    for (;;) {
        while (atomic_load(&forks))
            usleep(50);
        atomic_fetch_add(&in_std, 1);
        if (!atomic_load(&forks))
            break;
        atomic_fetch_sub(&in_std, 1);
    }
    is_in_std = 1;
}

static void leave_std(void)
{
    if (is_in_std) {
        is_in_std = 0;
        atomic_fetch_sub(&in_std, 1);
    }
}

int sigaltstack(const stack_t *restrict new, stack_t *restrict old)
{
    atomic_store(&has_table, 1);
    int gives_up = new && new->ss_flags & SS_DISABLE;
    if (gives_up)
        enter_std();
    int failed = syscall(SYS_sigaltstack, new, old);
    if (new && !gives_up)
        leave_std();
    return failed;
}

struct start {
    void *(*routine)(void *);
    void *argument;
};

static void *begin(void *start)
{
    struct start this = *(struct start *)start;
    free(start);
    if (atomic_load(&has_table))
        enter_std();
    void *result = this.routine(this.argument);
    leave_std();
    return result;
}

static pid_t fork_outside_std(void)
{
    atomic_store(&forks, 1);
    while (atomic_load(&in_std))
        usleep(50);
    pid_t child = fork();
    if (child == 0)
        atomic_store(&in_std, 0);
    atomic_store(&forks, 0);
    return child;
}

/* ---- threads that cannot be created ---- */

static atomic_int mode, number, calls, is_held, linger;

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    int call = atomic_fetch_add(&calls, 1) + 1, which = atomic_load(&number);
    switch (atomic_load(&mode)) {
    case FAIL_ONE:
        if (call == which)
            return EAGAIN;
        break;
    case FAIL_EVERY:
        if (call % which == 0)
            return EAGAIN;
        break;
    case FAIL_FROM:
        if (call >= which)
            return EAGAIN;
        break;
    case HOLD_ONE:
        if (call == which) {
            atomic_store(&is_held, 1);
            while (atomic_load(&mode) == HOLD_ONE)
                usleep(500);
            atomic_store(&is_held, 0);
            return EAGAIN;
        }
    }
    struct start *whole = __libc_malloc(sizeof *whole);
    if (!whole)
        return EAGAIN;
    *whole = (struct start){start, argument};
    int failed = real(thread, attributes, begin, whole);
    if (failed)
        free(whole);
    if (!failed && atomic_load(&linger))
        usleep(1000 * atomic_load(&linger));
    return failed;
}

static int threads_from_now_on(int command, int which)
{
    atomic_store(&calls, 0);
    atomic_store(&number, which);
    atomic_store(&mode, command);
    return 0;
}

/* ---- memory that is counted ---- */

#define LARGE (1 << 20)

static __thread __attribute__((tls_model("initial-exec"))) int allocations;
static atomic_int large_allocations;

static void count(size_t size)
{
    allocations++;
    if (size >= LARGE)
        atomic_fetch_add(&large_allocations, 1);
}

void *malloc(size_t size)
{
    count(size);
    return __libc_malloc(size);
}

void *calloc(size_t elements, size_t size)
{
    count(elements * size);
    return __libc_calloc(elements, size);
}

void *realloc(void *memory, size_t size)
{
    count(size);
    return __libc_realloc(memory, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    count(size);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size)
{
    count(size);
    *memory = __libc_memalign(alignment, size);
    return *memory ? 0 : ENOMEM;
}

/* ---- a /proc that cannot be read ---- */

static atomic_int proc_error;

static int open_unless_hidden(const char *path, int flags, mode_t permissions)
{
    int error = atomic_load(&proc_error);
    if (error && strncmp(path, "/proc/", 6) == 0) {
        errno = error;
        return -1;
    }
    return syscall(SYS_openat, AT_FDCWD, path, flags, permissions);
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t permissions = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open_unless_hidden(path, flags, permissions);
}

int open64(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    mode_t permissions = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return open_unless_hidden(path, flags | O_LARGEFILE, permissions);
}

/* ---- a clock that moves in steps ---- */

static atomic_int step;

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int failed = syscall(SYS_clock_gettime, clock, now);
    int milliseconds = atomic_load(&step);
    if (!failed && milliseconds && clock == CLOCK_MONOTONIC) {
        long long in_steps = (now->tv_sec * 1000LL + now->tv_nsec / 1000000) / milliseconds * milliseconds;
        now->tv_sec = in_steps / 1000;
        now->tv_nsec = in_steps % 1000 * 1000000;
    }
    return failed;
}

/* ---- the commands ---- */

pid_t getsid(pid_t process)
{
    int argument = process & 0xffffff;
    switch (process >> 24) {
    case PRESENT:
        return 1;
    case FAIL_ONE:
    case FAIL_EVERY:
    case FAIL_FROM:
    case HOLD_ONE:
    case LET_GO:
        return threads_from_now_on(process >> 24, argument);
    case IS_HELD:
        return atomic_load(&is_held);
    case THREADS:
        return atomic_load(&calls);
    case LINGER:
        atomic_store(&linger, argument);
        return 0;
    case FORK:
        return fork_outside_std();
    case ALLOCATIONS:
        return allocations;
    case LARGE_ALLOCATIONS:
        return atomic_load(&large_allocations);
    case HIDE_PROC:
        atomic_store(&proc_error, argument);
        return 0;
    case COARSE_CLOCK:
        atomic_store(&step, argument);
        return 0;
    }
    return syscall(SYS_getsid, process);
}
