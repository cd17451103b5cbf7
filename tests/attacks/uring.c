/* Socket, connect, send and receive by io_uring, with no such system call of the process's own; with "-sqpoll" in the
 * technique's name they are even made by a thread of the kernel's. See common.py for arguments and output. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int ring;
static struct io_uring_params params;
static char *sq, *cq;
static struct io_uring_sqe *entries;

static unsigned *field(char *base, unsigned offset) { return (unsigned *)(base + offset); }

static void set_up(int sqpoll) {
    if (sqpoll) {
        params.flags = IORING_SETUP_SQPOLL;
        params.sq_thread_idle = 2000;
    }
    ring = syscall(__NR_io_uring_setup, 4, &params);
    if (ring < 0) {
        printf("unsupported %s\n", strerrorname_np(errno));
        exit(0);
    }
    int access = PROT_READ | PROT_WRITE;
    sq = mmap(0, params.sq_off.array + 64, access, MAP_SHARED, ring, IORING_OFF_SQ_RING);
    cq = mmap(0, params.cq_off.cqes + 16 * sizeof(struct io_uring_cqe), access, MAP_SHARED, ring, IORING_OFF_CQ_RING);
    entries = mmap(0, 4 * sizeof(*entries), access, MAP_SHARED, ring, IORING_OFF_SQES);
}

/* Hands one operation over and waits for its result. */
static int operate(struct io_uring_sqe operation) {
    unsigned tail = *field(sq, params.sq_off.tail), mask = *field(sq, params.sq_off.ring_mask);
    entries[tail & mask] = operation;
    field(sq, params.sq_off.array)[tail & mask] = tail & mask;
    __atomic_store_n(field(sq, params.sq_off.tail), tail + 1, __ATOMIC_SEQ_CST);
    unsigned flags = IORING_ENTER_GETEVENTS, count = 1;
    if (params.flags & IORING_SETUP_SQPOLL) {
        count = 0;
        if (__atomic_load_n(field(sq, params.sq_off.flags), __ATOMIC_SEQ_CST) & IORING_SQ_NEED_WAKEUP)
            flags |= IORING_ENTER_SQ_WAKEUP;
    }
    if (syscall(__NR_io_uring_enter, ring, count, 1, flags, 0, 0) < 0)
        return -errno;
    unsigned head = *field(cq, params.cq_off.head);
    struct io_uring_cqe *done = (struct io_uring_cqe *)(cq + params.cq_off.cqes);
    int result = done[head & *field(cq, params.cq_off.ring_mask)].res;
    __atomic_store_n(field(cq, params.cq_off.head), head + 1, __ATOMIC_SEQ_CST);
    return result;
}

static int checked(const char *what, int result) {
    if (result < 0) {
        printf("%s: refused %s\nrefused %s\n", what, strerrorname_np(-result), strerrorname_np(-result));
        exit(0);
    }
    return result;
}

int main(int count, char **arguments) {
    if (count < 6)
        return 2;
    prctl(PR_SET_NAME, arguments[1]);
    alarm(15 * SLOWNESS);
    set_up(strstr(arguments[1], "-sqpoll") != 0);
    struct io_uring_sqe make = {.opcode = IORING_OP_SOCKET, .fd = AF_INET, .off = SOCK_STREAM};
    int sock = checked("socket", operate(make));
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[4]))};
    inet_pton(AF_INET, arguments[2], &target.sin_addr);
    struct io_uring_sqe go = {.opcode = IORING_OP_CONNECT, .fd = sock, .addr = (long)&target, .off = sizeof(target)};
    checked("connect", operate(go));
    static const char startup[] = "\0\0\0\x20\0\3\0\0user\0uring\0database\0db\0";
    struct io_uring_sqe say = {.opcode = IORING_OP_SEND, .fd = sock, .addr = (long)startup, .len = sizeof(startup)};
    checked("send", operate(say));
    static char answer[4096];
    struct io_uring_sqe hear = {.opcode = IORING_OP_RECV, .fd = sock, .addr = (long)answer, .len = sizeof(answer) - 1};
    int length = checked("receive", operate(hear));
    if (!strncmp(answer, "WITNESS", 7))
        puts("reached");
    else if (length == 0)
        puts("closed");
    else
        printf("answered %s %s\n", answer + 6, memmem(answer, length, "C28000", 7) ? "28000" : "without a known code");
    return 0;
}
