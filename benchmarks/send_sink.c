/* A storage SCP that costs next to nothing, so that the sender is what is measured.
 *
 *     send_sink PORT MAX_PDU
 *
 * A process per association. Accepts every context with its first transfer syntax, throws data sets
 * away in the kernel (MSG_TRUNC) and answers each with success. Nothing is checked.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static uint32_t max_pdu;

static int read_all(int sock, uint8_t *into, size_t n, int flags) {
    while (n) {
        ssize_t got = recv(sock, into, n, flags);
        if (got <= 0) return -1;
        if (!(flags & MSG_TRUNC)) into += got;
        n -= got;
    }
    return 0;
}

static uint32_t be32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static uint32_t be16(const uint8_t *p) { return p[0] << 8 | p[1]; }
static void put32(uint8_t *p, uint32_t v) { p[0] = v >> 24, p[1] = v >> 16, p[2] = v >> 8, p[3] = v; }

static uint8_t *item(uint8_t *out, int kind, size_t n) {
    out[0] = kind, out[1] = 0, out[2] = n >> 8, out[3] = n;
    return out + 4;
}

static int accept_association(int sock, uint8_t *request, uint32_t length) {
    static uint8_t answer[1 << 16];
    uint8_t *out = answer + 6;
    memcpy(out, request, 68); /* version, reserved, AE titles */
    out += 68;
    for (uint32_t at = 68; at + 4 <= length; at += 4 + be16(request + at + 2)) {
        if (request[at] == 0x10) {
            uint32_t n = be16(request + at + 2);
            memcpy(out, request + at, 4 + n);
            out += 4 + n;
        }
        if (request[at] != 0x20) continue;
        uint32_t end = at + 4 + be16(request + at + 2);
        for (uint32_t sub = at + 8; sub + 4 <= end; sub += 4 + be16(request + sub + 2)) {
            if (request[sub] != 0x40) continue;
            uint32_t n = be16(request + sub + 2);
            out = item(out, 0x21, 8 + n);
            out[0] = request[at + 4], out[1] = out[2] = out[3] = 0;
            memcpy(out + 4, request + sub, 4 + n);
            out += 8 + n;
            break;
        }
    }
    out = item(out, 0x50, 8);
    out = item(out, 0x51, 4);
    put32(out, max_pdu);
    out += 4;
    answer[0] = 2, answer[1] = 0;
    put32(answer + 2, out - answer - 6);
    return write(sock, answer, out - answer) == out - answer ? 0 : -1;
}

static int answer_store(int sock, int context, uint8_t *command, uint32_t n) {
    uint8_t out[512] = {4}, *p = out + 12;
    const uint8_t *uid = NULL, *sop_class = NULL, *message = NULL;
    for (uint32_t at = 0; at + 8 <= n; at += 8 + (command[at + 4] | command[at + 5] << 8)) {
        uint32_t element = command[at + 2] | command[at + 3] << 8;
        if (element == 0x0002) sop_class = command + at;
        if (element == 0x0110) message = command + at;
        if (element == 0x1000) uid = command + at;
    }
    if (!uid || !sop_class || !message) return -1;
    uint8_t *length = p;
    memcpy(p, "\0\0\0\0\4\0\0\0", 8), p += 12;
    memcpy(p, sop_class, 8 + sop_class[4]), p += 8 + sop_class[4];
    memcpy(p, "\0\0\0\1\2\0\0\0\1\x80", 10), p += 10;
    memcpy(p, "\0\0\x20\1\2\0\0\0", 8), memcpy(p + 8, message + 8, 2), p += 10;
    memcpy(p, "\0\0\0\x08\2\0\0\0\1\1", 10), p += 10;
    memcpy(p, "\0\0\0\x09\2\0\0\0\0\0", 10), p += 10;
    memcpy(p, uid, 8 + uid[4]), p += 8 + uid[4];
    uint32_t size = p - length - 12;
    length[8] = size, length[9] = size >> 8, length[10] = length[11] = 0;
    put32(out + 2, p - out - 6), put32(out + 6, p - out - 10);
    out[10] = context, out[11] = 3;
    return write(sock, out, p - out) == p - out ? 0 : -1;
}

static void serve(int sock) {
    static uint8_t body[1 << 20];
    uint8_t head[6], command[4096];
    uint32_t n_command = 0;
    while (!read_all(sock, head, 6, 0)) {
        uint32_t length = be32(head + 2);
        if (head[0] != 4) {
            if (length > sizeof body || read_all(sock, body, length, 0)) return;
            if (head[0] == 1 && accept_association(sock, body, length)) return;
            if (head[0] == 5 && write(sock, "\6\0\0\0\0\4\0\0\0\0", 10) != 10) return;
            if (head[0] > 5) return;
            continue;
        }
        while (length) { /* PDVs */
            if (read_all(sock, body, 6, 0)) return;
            uint32_t n = be32(body) - 2;
            int context = body[4], control = body[5];
            length -= 6 + n;
            if (control & 1) {
                if (n_command + n > sizeof command || read_all(sock, command + n_command, n, 0)) return;
                n_command += n;
            } else if (n && read_all(sock, body, n, MSG_TRUNC)) {
                return;
            }
            if (control == 2) {
                if (answer_store(sock, context, command, n_command)) return;
                n_command = 0;
            }
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: send_sink PORT MAX_PDU\n"), 2;
    max_pdu = atoi(argv[2]);
    signal(SIGCHLD, SIG_IGN);
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 64))
        return perror("listen"), 1;
    for (;;) {
        int sock = accept(listener, NULL, NULL);
        if (sock < 0) continue;
        setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (!fork()) {
            serve(sock);
            _exit(0);
        }
        close(sock);
    }
}
