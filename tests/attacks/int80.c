/* A 32-bit program without a C library: its system calls go by int 0x80. See common.py for arguments and output. */
static int call(int number, long a, long b, long c) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

static void say(const char *text) {
    int length = 0;
    while (text[length])
        length++;
    call(4, 1, (long)text, length);
}

static int number(const char **text) {
    int value = 0;
    while (**text >= '0' && **text <= '9')
        value = value * 10 + *(*text)++ - '0';
    return value;
}

void attack(int count, const char **arguments) {
    enum { EXIT = 1, READ = 3, WRITE = 4, ALARM = 27, PRCTL = 172, SOCKET = 359, CONNECT = 362 };
    if (count < 6)
        call(EXIT, 2, 0, 0);
    const char *at = arguments[2], *port = arguments[4];
    unsigned char target[16] = {2, 0};
    int wanted = number(&port);
    target[2] = wanted >> 8;
    target[3] = wanted;
    for (int byte = 4; byte < 8; byte++, at++)
        target[byte] = number(&at);
    call(PRCTL, 15, (long)arguments[1], 0);
    call(ALARM, 10 * SLOWNESS, 0, 0);
    static const char startup[] = "\0\0\0\x20\0\3\0\0user\0int80\0database\0db\0";
    static char answer[4096];
    int sock = call(SOCKET, 2, 1, 0);
    if (sock < 0 || call(CONNECT, sock, (long)target, 16) < 0)
        say("refused by connect\n");
    else if (call(WRITE, sock, (long)startup, sizeof(startup)) < 0 || call(READ, sock, (long)answer, 4095) <= 0)
        say("closed\n");
    else
        say(answer[0] == 'W' ? "reached\n" : "answered by the agent\n");
    call(EXIT, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n mov %esp, %eax\n lea 4(%eax), %edx\n push %edx\n push (%eax)\n call attack\n");
