/* A C-STORE sender that is never the limit: one thread per association, each instance sent from
 * memory, command and first fragment in one write.
 *
 *     receive_sender HOST PORT ASSOCIATIONS MAX_PDU FILE...
 *
 * Files are explicit VR little endian with file meta information. Prints one line of JSON: seconds
 * from the moment all associations stood to the last answer, instances, bytes, refused ones.
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
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAX_ASSOCIATIONS 256
#define SYNTAX "1.2.840.10008.1.2.1"

struct instance {
    uint8_t *bytes;
    size_t n_bytes, start; /* start: of the data set */
    char sop_class[65], uid[65];
};

static struct instance *instances;
static int n_instances, n_associations;
static uint32_t most_pdu;
static struct sockaddr_in address;
static pthread_barrier_t ready;
static double ended_at[MAX_ASSOCIATIONS];
static int n_refused[MAX_ASSOCIATIONS];

static void die(const char *what) {
    perror(what);
    exit(2);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void write_all(int sock, struct iovec *parts, int n) {
    while (n) {
        ssize_t written = writev(sock, parts, n);
        if (written < 0) die("write");
        while (n && (size_t)written >= parts->iov_len) {
            written -= parts->iov_len;
            parts++;
            n--;
        }
        if (n) {
            parts->iov_base = (char *)parts->iov_base + written;
            parts->iov_len -= written;
        }
    }
}

static void send_bytes(int sock, void *bytes, size_t n) {
    struct iovec part = {bytes, n};
    write_all(sock, &part, 1);
}

static void read_all(int sock, void *into, size_t n) {
    for (char *p = into; n;) {
        ssize_t got = read(sock, p, n);
        if (got == 0) {
            fprintf(stderr, "the peer hung up\n");
            exit(2);
        }
        if (got < 0) die("read");
        p += got;
        n -= got;
    }
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

/* The body of the next PDU, which must be of that type. To be freed. */
static uint8_t *read_pdu(int sock, int kind, uint32_t *n) {
    uint8_t head[6];
    read_all(sock, head, 6);
    *n = from_be32(head + 2);
    if (head[0] != kind) {
        fprintf(stderr, "PDU of type %d where %d is due\n", head[0], kind);
        exit(3);
    }
    uint8_t *body = malloc(*n + 1);
    read_all(sock, body, *n);
    return body;
}

/* Negotiate one context; the longest PDU the peer takes, at most `most_pdu`. */
static uint32_t associate(int sock, const char *sop_class) {
    uint8_t rq[2048], part[512], offered[4];
    int n = 6, m = 4;
    memset(rq, 0, sizeof rq);
    be16(rq + n, 1);
    memcpy(rq + n + 4, "ANY-SCP         BENCHMARK       ", 32);
    n += 68;
    n += item(rq + n, 0x10, "1.2.840.10008.3.1.1.1", 21);
    memset(part, 0, 4);
    part[0] = 1;
    m += item(part + m, 0x30, sop_class, strlen(sop_class));
    m += item(part + m, 0x40, SYNTAX, strlen(SYNTAX));
    n += item(rq + n, 0x20, part, m);
    be32(offered, 131072);
    m = item(part, 0x51, offered, 4);
    m += item(part + m, 0x52, "1.2.3.4.5.6", 11);
    m += item(part + m, 0x55, "BENCHMARK", 9);
    n += item(rq + n, 0x50, part, m);
    rq[0] = 1;
    be32(rq + 2, n - 6);
    send_bytes(sock, rq, n);

    uint32_t length, max_pdu = 16384;
    uint8_t *ac = read_pdu(sock, 2, &length);
    for (uint32_t at = 68; at + 4 <= length; at += 4 + (ac[at + 2] << 8 | ac[at + 3])) {
        if (ac[at] == 0x21 && ac[at + 6] != 0) {
            fprintf(stderr, "context rejected: %d\n", ac[at + 6]);
            exit(3);
        }
        if (ac[at] == 0x50) {
            uint32_t end = at + 4 + (ac[at + 2] << 8 | ac[at + 3]);
            for (uint32_t q = at + 4; q < end; q += 4 + (ac[q + 2] << 8 | ac[q + 3]))
                if (ac[q] == 0x51) max_pdu = from_be32(ac + q + 4);
        }
    }
    free(ac);
    return max_pdu == 0 || max_pdu > most_pdu ? most_pdu : max_pdu;
}

static int status_of(const uint8_t *body, uint32_t n) {
    for (uint32_t at = 6; at + 8 <= n;) {
        uint32_t length;
        memcpy(&length, body + at + 4, 4);
        if ((body[at + 2] | body[at + 3] << 8) == 0x0900) return body[at + 8] | body[at + 9] << 8;
        at += 8 + length;
    }
    return -1;
}

static int store(int sock, const struct instance *it, uint16_t message, uint32_t max_pdu) {
    uint8_t command[512], head[12];
    int n = 24;
    n += element(command + n, 0x0002, it->sop_class, strlen(it->sop_class));
    n += us_element(command + n, 0x0100, 1);
    n += us_element(command + n, 0x0110, message);
    n += us_element(command + n, 0x0700, 0);
    n += us_element(command + n, 0x0800, 1);
    n += element(command + n, 0x1000, it->uid, strlen(it->uid));
    uint32_t group = n - 24;
    element(command + 12, 0, &group, 4);
    command[0] = 4, command[1] = 0, command[10] = 1, command[11] = 3;
    be32(command + 2, n - 6);
    be32(command + 6, n - 10);

    uint8_t *p = it->bytes + it->start;
    size_t left = it->n_bytes - it->start;
    uint32_t most = (max_pdu - 6) & ~1u;
    struct iovec first = {command, n};
    int is_first = 1;
    while (left) {
        uint32_t k = left < most ? left : most;
        head[0] = 4, head[1] = 0, head[10] = 1, head[11] = k == left ? 2 : 0;
        be32(head + 2, k + 6);
        be32(head + 6, k + 2);
        struct iovec parts[3] = {first, {head, 12}, {p, k}};
        write_all(sock, parts + !is_first, 2 + is_first);
        is_first = 0;
        p += k;
        left -= k;
    }
    uint32_t length;
    uint8_t *answer = read_pdu(sock, 4, &length);
    int status = status_of(answer, length);
    free(answer);
    return status;
}

static void *send_share(void *number) {
    long me = (long)number;
    int one = 1, sock = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(sock, (void *)&address, sizeof address)) die("connect");
    uint32_t max_pdu = associate(sock, instances[me].sop_class);
    pthread_barrier_wait(&ready);
    uint16_t message = 1;
    for (int i = me; i < n_instances; i += n_associations)
        if (store(sock, &instances[i], message++, max_pdu) != 0) n_refused[me]++;
    ended_at[me] = now();
    uint8_t release[10] = {5, 0, 0, 0, 0, 4}, answer[10];
    send_bytes(sock, release, sizeof release);
    for (size_t got = 0; got < sizeof answer;) {
        ssize_t n = read(sock, answer + got, sizeof answer - got);
        if (n <= 0) break;
        got += n;
    }
    close(sock);
    return NULL;
}

static void load(struct instance *it, const char *path) {
    int fd = open(path, O_RDONLY);
    struct stat info;
    if (fd < 0 || fstat(fd, &info)) die(path);
    it->n_bytes = info.st_size;
    it->bytes = mmap(NULL, it->n_bytes, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (it->bytes == MAP_FAILED) die(path);
    close(fd);
    uint32_t group;
    memcpy(&group, it->bytes + 140, 4);
    it->start = 144 + group;
    for (size_t at = 144; at < it->start;) {
        uint16_t number = it->bytes[at + 2] | it->bytes[at + 3] << 8;
        int is_long = !memcmp(it->bytes + at + 4, "OB", 2);
        uint32_t head = is_long ? 12 : 8, length = 0;
        memcpy(&length, it->bytes + at + (is_long ? 8 : 6), is_long ? 4 : 2);
        if (number == 2) memcpy(it->sop_class, it->bytes + at + head, length);
        if (number == 3) memcpy(it->uid, it->bytes + at + head, length);
        at += head + length;
    }
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: receive_sender HOST PORT ASSOCIATIONS MAX_PDU FILE...\n");
        return 1;
    }
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = inet_addr(argv[1]);
    address.sin_port = htons(atoi(argv[2]));
    n_associations = atoi(argv[3]);
    most_pdu = atoi(argv[4]);
    n_instances = argc - 5;
    if (n_associations > n_instances) n_associations = n_instances;
    if (n_associations > MAX_ASSOCIATIONS) n_associations = MAX_ASSOCIATIONS;
    instances = calloc(n_instances, sizeof *instances);
    size_t n_bytes = 0;
    for (int i = 0; i < n_instances; i++) {
        load(&instances[i], argv[5 + i]);
        n_bytes += instances[i].n_bytes;
    }
    pthread_t threads[MAX_ASSOCIATIONS];
    pthread_barrier_init(&ready, NULL, n_associations + 1);
    for (long i = 0; i < n_associations; i++)
        pthread_create(&threads[i], NULL, send_share, (void *)i);
    pthread_barrier_wait(&ready);
    double started = now(), ended = started;
    int refused = 0;
    for (int i = 0; i < n_associations; i++) {
        pthread_join(threads[i], NULL);
        if (ended_at[i] > ended) ended = ended_at[i];
        refused += n_refused[i];
    }
    printf("{\"seconds\": %.6f, \"instances\": %d, \"bytes\": %zu, \"refused\": %d}\n",
           ended - started, n_instances, n_bytes, refused);
    return refused != 0;
}
