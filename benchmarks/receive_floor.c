/* The least a C program can do to receive instances: the floor that the others are measured by.
 *
 *     receive_floor PORT DIRECTORY MAX_PDU [sync]
 *
 * A thread per association. Each instance is written to a partial file with file meta information,
 * synced if asked to (fdatasync), renamed, and answered with success. Nothing is checked.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_BYTES (1 << 20)
#define PATH_BYTES 512

static const char *directory;
static uint32_t max_pdu;
static int is_syncing;

struct association {
    int sock, file;
    uint8_t *buffer;
    char syntax[256][65]; /* by context id */
    char sop_class[65], uid[65];
    uint16_t message, field;
    uint8_t command[4096];
    uint32_t n_command;
    char partial[PATH_BYTES], final[PATH_BYTES];
};

static int read_all(int fd, void *into, size_t n) {
    for (char *p = into; n;) {
        ssize_t got = read(fd, p, n);
        if (got <= 0) return -1;
        p += got;
        n -= got;
    }
    return 0;
}

static int write_all(int fd, const void *from, size_t n) {
    for (const char *p = from; n;) {
        ssize_t written = write(fd, p, n);
        if (written <= 0) return -1;
        p += written;
        n -= written;
    }
    return 0;
}

static void be32(uint8_t *p, uint32_t v) {
    p[0] = v >> 24, p[1] = v >> 16, p[2] = v >> 8, p[3] = v;
}

static void be16(uint8_t *p, uint16_t v) { p[0] = v >> 8, p[1] = v; }

static uint32_t from_be32(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
}

static int item(uint8_t *p, int kind, const void *value, int n) {
    p[0] = kind, p[1] = 0;
    be16(p + 2, n);
    memcpy(p + 4, value, n);
    return n + 4;
}

static int element(uint8_t *p, uint16_t number, const void *value, int n) {
    uint32_t length = n + (n & 1);
    p[0] = p[1] = 0, p[2] = number, p[3] = number >> 8;
    memcpy(p + 4, &length, 4);
    memcpy(p + 8, value, n);
    if (n & 1) p[8 + n] = 0;
    return 8 + length;
}

static int us_element(uint8_t *p, uint16_t number, uint16_t value) {
    return element(p, number, &value, 2);
}

static int meta_element(uint8_t *p, uint16_t number, const char *vr, const void *value, int n) {
    uint16_t length = n + (n & 1);
    p[0] = 2, p[1] = 0, p[2] = number, p[3] = number >> 8;
    memcpy(p + 4, vr, 2);
    memcpy(p + 6, &length, 2);
    memcpy(p + 8, value, n);
    if (n & 1) p[8 + n] = 0;
    return 8 + length;
}

static void copy_uid(char *to, const uint8_t *value, uint32_t n) {
    if (n > 64) n = 64;
    memcpy(to, value, n);
    to[n] = 0;
}

static int answer(struct association *a, int context) {
    uint8_t rsp[512];
    int n = 24;
    n += element(rsp + n, 0x0002, a->sop_class, strlen(a->sop_class));
    n += us_element(rsp + n, 0x0100, a->field | 0x8000);
    n += us_element(rsp + n, 0x0120, a->message);
    n += us_element(rsp + n, 0x0800, 0x0101);
    n += us_element(rsp + n, 0x0900, 0);
    if (a->field == 1) n += element(rsp + n, 0x1000, a->uid, strlen(a->uid));
    uint32_t group = n - 24;
    element(rsp + 12, 0, &group, 4);
    rsp[0] = 4, rsp[1] = 0, rsp[10] = context, rsp[11] = 3;
    be32(rsp + 2, n - 6);
    be32(rsp + 6, n - 10);
    return write_all(a->sock, rsp, n);
}

static int begin_file(struct association *a, int context) {
    static const uint8_t version[14] = {2, 0, 1, 0, 'O', 'B', 0, 0, 2, 0, 0, 0, 0, 1};
    uint8_t meta[1024];
    memset(meta, 0, sizeof meta);
    memcpy(meta + 128, "DICM", 4);
    int n = 144;
    memcpy(meta + n, version, sizeof version);
    n += sizeof version;
    n += meta_element(meta + n, 2, "UI", a->sop_class, strlen(a->sop_class));
    n += meta_element(meta + n, 3, "UI", a->uid, strlen(a->uid));
    n += meta_element(meta + n, 0x10, "UI", a->syntax[context], strlen(a->syntax[context]));
    n += meta_element(meta + n, 0x12, "UI", "1.2.3.4.5.6", 11);
    uint32_t group = n - 144;
    meta_element(meta + 132, 0, "UL", &group, 4);
    snprintf(a->partial, PATH_BYTES, "%s/%s.part", directory, a->uid);
    snprintf(a->final, PATH_BYTES, "%s/%s.dcm", directory, a->uid);
    a->file = open(a->partial, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    return a->file < 0 ? -1 : write_all(a->file, meta, n);
}

static int end_file(struct association *a) {
    if (is_syncing && fdatasync(a->file)) return -1;
    close(a->file);
    a->file = -1;
    return rename(a->partial, a->final);
}

static int take_command(struct association *a, int context, int control, uint32_t n) {
    if (a->n_command + n > sizeof a->command) return -1;
    if (read_all(a->sock, a->command + a->n_command, n)) return -1;
    a->n_command += n;
    if (!(control & 2)) return 0;
    for (uint32_t at = 0; at + 8 <= a->n_command;) {
        uint16_t number = a->command[at + 2] | a->command[at + 3] << 8;
        uint32_t length;
        memcpy(&length, a->command + at + 4, 4);
        const uint8_t *value = a->command + at + 8;
        if (number == 0x0002) copy_uid(a->sop_class, value, length);
        if (number == 0x1000) copy_uid(a->uid, value, length);
        if (number == 0x0110) memcpy(&a->message, value, 2);
        if (number == 0x0100) memcpy(&a->field, value, 2);
        at += 8 + length;
    }
    a->n_command = 0;
    return a->field == 0x0030 ? answer(a, context) : begin_file(a, context);
}

static int take_data(struct association *a, int context, int control, uint32_t n) {
    while (n) {
        ssize_t got = read(a->sock, a->buffer, n < BUFFER_BYTES ? n : BUFFER_BYTES);
        if (got <= 0 || write_all(a->file, a->buffer, got)) return -1;
        n -= got;
    }
    if (!(control & 2)) return 0;
    return end_file(a) ? -1 : answer(a, context);
}

static int take_pdata(struct association *a, uint32_t left) {
    while (left) {
        uint8_t head[6];
        if (read_all(a->sock, head, 6)) return -1;
        uint32_t n = from_be32(head) - 2;
        left -= 6 + n;
        int failed = head[5] & 1 ? take_command(a, head[4], head[5], n)
                                 : take_data(a, head[4], head[5], n);
        if (failed) return -1;
    }
    return 0;
}

/* Accept every context: explicit VR little endian where it is offered, else the first. */
static void choose(struct association *a, const uint8_t *context, uint32_t n) {
    char first[65] = "", chosen[65] = "";
    for (uint32_t at = 4; at + 4 <= n;) {
        uint32_t length = context[at + 2] << 8 | context[at + 3];
        if (context[at] == 0x40) {
            char syntax[65];
            copy_uid(syntax, context + at + 4, length);
            if (!first[0]) strcpy(first, syntax);
            if (!strcmp(syntax, "1.2.840.10008.1.2.1")) strcpy(chosen, syntax);
        }
        at += 4 + length;
    }
    strcpy(a->syntax[context[0]], chosen[0] ? chosen : first);
}

static int accept_association(struct association *a, const uint8_t *rq, uint32_t n_rq) {
    uint8_t *ac = calloc(1, 65536), user[64], offered[4];
    memcpy(ac + 6, rq, 68);
    int n = 6 + 68;
    for (uint32_t at = 68; at + 4 <= n_rq;) {
        uint32_t length = rq[at + 2] << 8 | rq[at + 3];
        if (rq[at] == 0x10) n += item(ac + n, 0x10, rq + at + 4, length);
        if (rq[at] == 0x20) {
            uint8_t id = rq[at + 4], context[128] = {id};
            choose(a, rq + at + 4, length);
            int m = 4 + item(context + 4, 0x40, a->syntax[id], strlen(a->syntax[id]));
            n += item(ac + n, 0x21, context, m);
        }
        at += 4 + length;
    }
    be32(offered, max_pdu);
    int m = item(user, 0x51, offered, 4);
    m += item(user + m, 0x52, "1.2.3.4.5.6", 11);
    n += item(ac + n, 0x50, user, m);
    ac[0] = 2;
    be32(ac + 2, n - 6);
    int failed = write_all(a->sock, ac, n);
    free(ac);
    return failed;
}

static int take_pdu(struct association *a) {
    uint8_t head[6];
    if (read_all(a->sock, head, 6)) return -1;
    uint32_t n = from_be32(head + 2);
    if (head[0] == 4) return take_pdata(a, n);
    uint8_t *body = malloc(n + 1);
    int failed = read_all(a->sock, body, n);
    if (!failed && head[0] == 1) failed = accept_association(a, body, n);
    else if (!failed && head[0] == 5) {
        uint8_t rp[10] = {6, 0, 0, 0, 0, 4};
        write_all(a->sock, rp, sizeof rp);
        failed = -1;
    } else failed = -1;
    free(body);
    return failed;
}

static void *serve(void *sock) {
    struct association *a = calloc(1, sizeof *a);
    int one = 1;
    a->sock = (long)sock;
    a->file = -1;
    a->buffer = malloc(BUFFER_BYTES);
    setsockopt(a->sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    while (!take_pdu(a)) {}
    if (a->file >= 0) close(a->file);
    close(a->sock);
    free(a->buffer);
    free(a);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: receive_floor PORT DIRECTORY MAX_PDU [sync]\n");
        return 1;
    }
    directory = argv[2];
    max_pdu = atoi(argv[3]);
    is_syncing = argc > 4 && !strcmp(argv[4], "sync");
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    address.sin_addr.s_addr = inet_addr("127.0.0.1");
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 128)) {
        perror("listen");
        return 1;
    }
    for (;;) {
        long sock = accept(listener, NULL, NULL);
        pthread_t thread;
        if (sock >= 0 && !pthread_create(&thread, NULL, serve, (void *)sock))
            pthread_detach(thread);
    }
}
