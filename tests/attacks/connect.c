/* Connects and says what it is answered; see common.py for arguments and output. Built dynamic and static, run as it is,
 * setuid, by vfork, and in a child that clone3 puts straight into another cgroup. SLOWNESS is how many times slower than
 * usual the machine is. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static int dial(const char *address, const char *port) {
    static const char startup[] = "\0\0\0\x20\0\3\0\0user\0plain\0database\0db\0";
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    struct timeval patience = {.tv_sec = 2 * SLOWNESS};
    char answer[4096] = "";
    inet_pton(AF_INET, address, &target.sin_addr);
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (sock < 0 || connect(sock, (struct sockaddr *)&target, sizeof(target)) ||
        send(sock, startup, sizeof(startup), 0) < 0)
        return printf("refused %s\n", strerrorname_np(errno));
    ssize_t length = recv(sock, answer, sizeof(answer) - 1, 0);
    if (length < 0)
        return puts("silent");
    if (!strncmp(answer, "WITNESS", 7))
        return puts("reached");
    if (length == 0)
        return puts("closed");
    return printf("answered %s %s\n", answer + 6, memmem(answer, length, "C28000", 7) ? "28000" : "without a known code");
}

int main(int count, char **arguments) {
    if (count < 6)
        return 2;
    const char *name = arguments[1], *target = arguments[2], *port = arguments[4];
    prctl(PR_SET_NAME, name);
    alarm(15 * SLOWNESS);
    setvbuf(stdout, 0, _IONBF, 0);
    int status = 0;
    if (!strcmp(name, "vfork")) {
        if (vfork() == 0) {
            dial(target, port);
            _exit(0);
        }
        wait(&status);
    } else if (!strncmp(name, "clone-into", 10)) {
        const char *cgroup = getenv("CLONE_INTO");
        struct clone_args clone = {.flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD};
        clone.cgroup = open(cgroup ? cgroup : "/", O_RDONLY | O_DIRECTORY);
        long child = syscall(SYS_clone3, &clone, sizeof(clone));
        if (child < 0)
            printf("unsupported %s\n", strerrorname_np(errno));
        else if (child == 0)
            dial(target, port);
        else
            wait(&status);
    } else {
        if (!strcmp(name, "setuid"))
            printf("effective user %d\n", geteuid());
        dial(target, port);
    }
    return 0;
}
