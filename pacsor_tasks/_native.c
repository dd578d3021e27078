/* The inner loops of receiving, compiled. Optional: each has a twin in Python that does the same.
 *
 *   stride     over the elements of a data set      (pacsor_tasks/dicom/elements.py)
 *   fill       a buffer from a socket               (receiver/buffered_socket.py)
 *   pour       P-DATA from a socket into a file     (receiver/pdata.py, inbound.py, incoming.py)
 *   write_new  a file, whole and synced             (receiver/incoming.py)
 *   add_new    a file to its study                  (receiver/associations.py)
 *   store      C-STOREs like the one before, whole  (receiver/lane.py)
 *
 * Nothing here trusts a length that a peer sent: each is compared with what is there before it is
 * used. Whatever is unusual is left where it is, for Python to decide. All but `stride` run without
 * the interpreter's lock, so that one association does not wait for another's system calls.
 */
#ifndef __linux__
#error "Linux only; elsewhere the Python code does it all"
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* --- stride ------------------------------------------------------------------------------- */

#define UNDEFINED 0xFFFFFFFFu
#define MAX_WANTED 16

enum encoding { IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE, N_ENCODINGS };

static uint32_t u16(const uint8_t *p, int is_big)
{
    return is_big ? (uint32_t)p[0] << 8 | p[1] : (uint32_t)p[1] << 8 | p[0];
}

static uint32_t u32(const uint8_t *p, int is_big)
{
    return is_big ? u16(p, 1) << 16 | u16(p + 2, 1) : u16(p + 2, 0) << 16 | u16(p, 0);
}

/* Bytes of an explicit VR's length; 0: no such VR (PS3.5 Table 7.1-1). */
static int length_bytes(const uint8_t *vr)
{
    static const char shorts[] = "AEASATCSDADSDTFDFLISLOLTPNSHSLSSSTTMUIULUS";
    static const char longs[] = "OBODOFOLOVOWSQSVUCUNURUTUV";
    for (size_t i = 0; i + 1 < sizeof shorts; i += 2)
        if (vr[0] == shorts[i] && vr[1] == shorts[i + 1])
            return 2;
    for (size_t i = 0; i + 1 < sizeof longs; i += 2)
        if (vr[0] == longs[i] && vr[1] == longs[i + 1])
            return 4;
    return 0;
}

struct element {
    int64_t tag;
    uint32_t length;
    Py_ssize_t begin; /* of the value */
};

/* The head at `at`; 0 if there is none that is ordinary. */
static int read_head(const uint8_t *data, Py_ssize_t at, Py_ssize_t size, enum encoding encoding,
                     struct element *out)
{
    int is_big = encoding == EXPLICIT_BE;
    if (size - at < 8)
        return 0;
    const uint8_t *p = data + at;
    out->tag = (int64_t)u16(p, is_big) << 16 | u16(p + 2, is_big);
    out->begin = at + 8;
    if (encoding == IMPLICIT_LE) {
        out->length = u32(p + 4, 0);
        return 1;
    }
    switch (length_bytes(p + 4)) {
    case 2:
        out->length = u16(p + 6, is_big);
        return 1;
    case 4:
        if (size - at < 12)
            return 0;
        out->length = u32(p + 8, is_big);
        out->begin = at + 12;
        return 1;
    default:
        return 0;
    }
}

static int is_wanted(const int64_t *wanted, Py_ssize_t n, int64_t tag)
{
    for (Py_ssize_t i = 0; i < n; i++)
        if (wanted[i] == tag)
            return 1;
    return 0;
}

static int keep_value(PyObject *found, int64_t tag, const uint8_t *value, Py_ssize_t length)
{
    PyObject *key = PyLong_FromLongLong(tag);
    PyObject *bytes = PyBytes_FromStringAndSize((const char *)value, length);
    int failed = !key || !bytes || PyDict_SetItem(found, key, bytes);
    Py_XDECREF(key);
    Py_XDECREF(bytes);
    return failed;
}

static Py_ssize_t read_wanted(PyObject *tags, int64_t *wanted)
{
    Py_ssize_t n = PyTuple_GET_SIZE(tags);
    if (n > MAX_WANTED) {
        PyErr_SetString(PyExc_ValueError, "too many tags");
        return -1;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        wanted[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(tags, i));
        if (wanted[i] == -1 && PyErr_Occurred())
            return -1;
    }
    return n;
}

PyDoc_STRVAR(stride_doc,
"stride(data, at, previous, last, wanted, encoding, left, max_value, found)\n"
"-> (at, previous, left)");

static PyObject *stride(PyObject *self, PyObject *args)
{
    Py_buffer data;
    Py_ssize_t at, left, max_value, n_wanted;
    long long previous, last;
    int encoding;
    PyObject *tags, *found;
    int64_t wanted[MAX_WANTED];
    (void)self;
    if (!PyArg_ParseTuple(args, "y*nLLO!innO!", &data, &at, &previous, &last, &PyTuple_Type, &tags,
                          &encoding, &left, &max_value, &PyDict_Type, &found))
        return NULL;
    n_wanted = read_wanted(tags, wanted);
    if (n_wanted < 0)
        goto fail;
    if (at < 0 || encoding < 0 || encoding >= N_ENCODINGS) {
        PyErr_SetString(PyExc_ValueError, "no such place or encoding");
        goto fail;
    }
    struct element e;
    while (left > 0 && at <= data.len && read_head(data.buf, at, data.len, encoding, &e)) {
        if (e.tag <= previous || e.tag > last || e.length == UNDEFINED
            || (uint64_t)e.length > (uint64_t)(data.len - e.begin))
            break;
        if (is_wanted(wanted, n_wanted, e.tag)) {
            if ((Py_ssize_t)e.length > max_value)
                break;
            if (keep_value(found, e.tag, (uint8_t *)data.buf + e.begin, e.length))
                goto fail;
        }
        previous = e.tag;
        at = e.begin + e.length;
        left--;
    }
    PyBuffer_Release(&data);
    return Py_BuildValue("nLn", at, previous, left);
fail:
    PyBuffer_Release(&data);
    return NULL;
}

/* --- pour --------------------------------------------------------------------------------- */

#define HEAD_BYTES 6
#define P_DATA_TF 0x04
#define COMMAND 0x01
#define LAST 0x02
#define MAX_PIECES 1000
/* One read and one write, if so much is to come; below the other it is not worth a system call. */
#define LARGE_BYTES (1 << 17)
#define SMALL_BYTES (1 << 13)

enum stop { ENDED, IDLE, ENOUGH, UNUSUAL, HUNG_UP, SOCKET_FAILED, FILE_FAILED };

struct pouring {
    int sock, wake, file, context_id;
    uint8_t *buffer;
    size_t capacity, start, end;
    /* as PdataParser's: bytes left of the PDU beyond this PDV, of the PDV, and its control header */
    uint64_t pdu_left, pdv_left;
    int control;
    uint64_t n_written, n_begun, early_bytes, n_received, enough;
    int patience_ms, error, lowest;
    struct iovec pieces[MAX_PIECES];
    int n_pieces;
};

static int write_all(int fd, struct iovec *pieces, int n)
{
    while (n > 0) {
        ssize_t written = writev(fd, pieces, n);
        if (written < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        while (n > 0 && (size_t)written >= pieces->iov_len) {
            written -= (ssize_t)pieces->iov_len;
            pieces++;
            n--;
        }
        if (n > 0) {
            pieces->iov_base = (char *)pieces->iov_base + written;
            pieces->iov_len -= (size_t)written;
        }
    }
    return 0;
}

static int flush(struct pouring *p)
{
    uint64_t n_bytes = 0;
    for (int i = 0; i < p->n_pieces; i++)
        n_bytes += p->pieces[i].iov_len;
    p->error = write_all(p->file, p->pieces, p->n_pieces);
    p->n_pieces = 0;
    if (p->error)
        return -1;
    p->n_written += n_bytes;
    if (p->early_bytes && p->n_written - p->n_begun >= p->early_bytes) {
        /* Nothing is promised by it: a failure shows when it is synced. */
        sync_file_range(p->file, (off_t)p->n_begun, (off_t)(p->n_written - p->n_begun),
                        SYNC_FILE_RANGE_WRITE);
        p->n_begun = p->n_written;
    }
    return 0;
}

/* Take the head that is at `start`: 1, or 0 if it is not an ordinary one of this data set. */
static int take_head(struct pouring *p)
{
    const uint8_t *head = p->buffer + p->start;
    if (!p->pdu_left) {
        uint64_t length = u32(head + 2, 1);
        if (head[0] != P_DATA_TF || (length && length < HEAD_BYTES))
            return 0;
        p->pdu_left = length;
    } else {
        uint64_t length = u32(head, 1);
        if (length < 2 || length + 4 > p->pdu_left)
            return 0;
        uint64_t rest = p->pdu_left - (length + 4);
        if ((rest && rest < HEAD_BYTES) || head[4] != p->context_id || head[5] & COMMAND)
            return 0;
        p->pdu_left = rest;
        p->pdv_left = length - 2;
        p->control = head[5];
    }
    p->start += HEAD_BYTES;
    return 1;
}

/* What is in the buffer, to the file: -1 for more, or why not. */
static int pour_buffer(struct pouring *p)
{
    while (p->start < p->end) {
        if (p->pdv_left) {
            size_t n = p->end - p->start;
            if (n > p->pdv_left)
                n = p->pdv_left;
            p->pieces[p->n_pieces].iov_base = p->buffer + p->start;
            p->pieces[p->n_pieces].iov_len = n;
            p->n_pieces++;
            p->start += n;
            p->pdv_left -= n;
        } else if (p->end - p->start < HEAD_BYTES) {
            break;
        } else {
            int was_inside = p->pdu_left != 0;
            if (!take_head(p))
                return flush(p) ? FILE_FAILED : UNUSUAL;
            if (!was_inside)
                continue;
        }
        if (!p->pdv_left && p->control & LAST)
            return flush(p) ? FILE_FAILED : ENDED;
        if (p->n_pieces == MAX_PIECES && flush(p))
            return FILE_FAILED;
    }
    return flush(p) ? FILE_FAILED : -1;
}

/* Bytes that have to come now: of the PDU that is coming in, but not more than one write takes. */
static size_t needed(const struct pouring *p)
{
    uint64_t left = p->pdu_left + p->pdv_left;
    if (left > LARGE_BYTES)
        return LARGE_BYTES;
    /* A part of the PDV's head may be there already. */
    return left > p->end ? (size_t)left - p->end : 1;
}

/* Be woken when so many bytes are there, not for each packet. */
static void wake_at(struct pouring *p, size_t n_bytes)
{
    int lowest = n_bytes < SMALL_BYTES ? 1 : (int)n_bytes;
    if (lowest != p->lowest
        && !setsockopt(p->sock, SOL_SOCKET, SO_RCVLOWAT, &lowest, sizeof lowest))
        p->lowest = lowest;
}

static int wait_for_more(struct pouring *p, size_t n_bytes)
{
    struct pollfd fds[2] = {{p->sock, POLLIN, 0}, {p->wake, POLLIN, 0}};
    wake_at(p, n_bytes);
    int n = poll(fds, 2, p->patience_ms);
    return n > 0 && fds[0].revents && !fds[1].revents;
}

/* Read what there is: -1 if something came, or why not. */
static int fill(struct pouring *p)
{
    size_t had = p->end, need = needed(p);
    while (p->end < p->capacity) {
        ssize_t n = recv(p->sock, p->buffer + p->end, p->capacity - p->end, MSG_DONTWAIT);
        size_t got = p->end - had;
        if (n > 0) {
            p->end += (size_t)n;
            p->n_received += (uint64_t)n;
        } else if (got >= need) {
            break; /* first what came; the rest is seen again */
        } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            if (!wait_for_more(p, need - got)) {
                if (got)
                    break;
                return IDLE;
            }
        } else if (n < 0 && errno == EINTR) {
            continue;
        } else if (got) {
            break;
        } else if (n == 0) {
            return HUNG_UP;
        } else {
            p->error = errno;
            return SOCKET_FAILED;
        }
    }
    return -1;
}

static int pour_all(struct pouring *p)
{
    int stop = -1;
    while (stop < 0) {
        stop = fill(p);
        if (stop < 0)
            stop = pour_buffer(p);
        if (stop < 0) {
            /* At most a part of a head. */
            for (size_t i = 0; i < p->end - p->start; i++)
                p->buffer[i] = p->buffer[p->start + i];
            p->end -= p->start;
            p->start = 0;
            if (p->n_received >= p->enough)
                stop = ENOUGH;
        }
    }
    wake_at(p, 1);
    return stop;
}

PyDoc_STRVAR(pour_doc,
"pour(sock, wake, file, buffer, context_id, pdu_left, pdv_left, control, n_written, n_begun,\n"
"     early_bytes, enough, patience_ms)\n"
"-> (stop, errno, start, end, pdu_left, pdv_left, control, n_written, n_begun)");

static PyObject *pour(PyObject *self, PyObject *args)
{
    Py_buffer buffer;
    unsigned long long pdu_left, pdv_left, n_written, n_begun, early_bytes, enough;
    int stop;
    struct pouring *p = PyMem_RawCalloc(1, sizeof *p);
    (void)self;
    if (!p)
        return PyErr_NoMemory();
    if (!PyArg_ParseTuple(args, "iiiw*iKKiKKKKi", &p->sock, &p->wake, &p->file, &buffer,
                          &p->context_id, &pdu_left, &pdv_left, &p->control, &n_written, &n_begun,
                          &early_bytes, &enough, &p->patience_ms)) {
        PyMem_RawFree(p);
        return NULL;
    }
    p->buffer = buffer.buf;
    p->capacity = (size_t)buffer.len;
    p->pdu_left = pdu_left;
    p->pdv_left = pdv_left;
    p->n_written = n_written;
    p->n_begun = n_begun;
    p->early_bytes = early_bytes;
    p->enough = enough;
    p->lowest = 1;
    Py_BEGIN_ALLOW_THREADS
    stop = pour_all(p);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&buffer);
    PyObject *said = Py_BuildValue(
        "iinnKKiKK", stop, p->error, (Py_ssize_t)p->start, (Py_ssize_t)p->end,
        (unsigned long long)p->pdu_left, (unsigned long long)p->pdv_left, p->control,
        (unsigned long long)p->n_written, (unsigned long long)p->n_begun);
    PyMem_RawFree(p);
    return said;
}

/* --- fill --------------------------------------------------------------------------------- */

struct filling {
    int sock, wake, patience_ms, is_woken;
    uint8_t *buffer;
    size_t capacity, end, much;
};

/* As recv, but -1 with errno 0: nothing is there. */
static ssize_t receive(struct filling *f)
{
    ssize_t n;
    do
        n = recv(f->sock, f->buffer + f->end, f->capacity - f->end, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        f->end += (size_t)n;
    else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        errno = 0;
    return n;
}

static int wait_for_any(struct filling *f)
{
    struct pollfd fds[2] = {{f->sock, POLLIN, 0}, {f->wake, POLLIN, 0}};
    if (poll(fds, 2, f->patience_ms) <= 0)
        return 0;
    f->is_woken = fds[1].revents != 0;
    return fds[0].revents != 0;
}

static ssize_t fill_buffer(struct filling *f)
{
    size_t had = f->end;
    ssize_t n = receive(f);
    if (n < 0 && !errno && wait_for_any(f)) {
        errno = 0;
        n = receive(f);
    }
    if (n <= 0)
        return n;
    /* The end of the stream, and an error, are seen again the next time. */
    while (n >= (ssize_t)f->much && f->end < f->capacity / 2)
        n = receive(f);
    return (ssize_t)(f->end - had);
}

PyDoc_STRVAR(fill_doc, "fill(sock, wake, buffer, end, much, patience_ms) -> (n, is_woken)");

static PyObject *native_fill(PyObject *self, PyObject *args)
{
    struct filling f = {0};
    Py_buffer buffer;
    Py_ssize_t end, much, n;
    int error;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiw*nni", &f.sock, &f.wake, &buffer, &end, &much, &f.patience_ms))
        return NULL;
    if (end < 0 || end >= buffer.len || much < 1) {
        PyBuffer_Release(&buffer);
        PyErr_SetString(PyExc_ValueError, "no room in the buffer");
        return NULL;
    }
    f.buffer = buffer.buf;
    f.capacity = (size_t)buffer.len;
    f.end = (size_t)end;
    f.much = (size_t)much;
    Py_BEGIN_ALLOW_THREADS
    errno = 0;
    n = fill_buffer(&f);
    error = errno;
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&buffer);
    if (n < 0 && error) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("nO", n, f.is_woken ? Py_True : Py_False);
}

/* --- files -------------------------------------------------------------------------------- */

static PyObject *os_error(int number, const char *path)
{
    errno = number;
    return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
}

static void release(Py_buffer *buffers, Py_ssize_t n)
{
    for (Py_ssize_t i = 0; i < n; i++)
        PyBuffer_Release(&buffers[i]);
}

static int make_file(const char *path, struct iovec *pieces, int n, int is_synced, int *fd)
{
    *fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (*fd < 0)
        return errno;
    int error = write_all(*fd, pieces, n);
    if (!error && is_synced && fdatasync(*fd))
        error = errno;
    if (error) {
        close(*fd);
        unlink(path);
    }
    return error;
}

PyDoc_STRVAR(write_new_doc, "write_new(path, pieces, is_synced) -> fd");

static PyObject *write_new(PyObject *self, PyObject *args)
{
    const char *path;
    PyObject *list;
    int is_synced, fd = -1, error;
    Py_buffer buffers[MAX_PIECES];
    struct iovec pieces[MAX_PIECES];
    (void)self;
    if (!PyArg_ParseTuple(args, "sO!p", &path, &PyList_Type, &list, &is_synced))
        return NULL;
    Py_ssize_t n = PyList_GET_SIZE(list);
    if (n > MAX_PIECES) {
        PyErr_SetString(PyExc_ValueError, "too many pieces");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < n; i++) {
        if (PyObject_GetBuffer(PyList_GET_ITEM(list, i), &buffers[i], PyBUF_SIMPLE)) {
            release(buffers, i);
            return NULL;
        }
        pieces[i].iov_base = buffers[i].buf;
        pieces[i].iov_len = (size_t)buffers[i].len;
    }
    Py_BEGIN_ALLOW_THREADS
    error = make_file(path, pieces, (int)n, is_synced, &fd);
    Py_END_ALLOW_THREADS
    release(buffers, n);
    return error ? os_error(error, path) : PyLong_FromLong(fd);
}

static int lock(int fd, int how)
{
    while (flock(fd, how))
        if (errno != EINTR)
            return errno;
    return 0;
}

/* As StudyLock.take, not exclusive. */
static int take_lock(int gate, int study)
{
    int error = lock(gate, LOCK_SH);
    if (error)
        return error;
    error = lock(study, LOCK_SH);
    lock(gate, LOCK_UN);
    return error;
}

static int add(int gate, int study, const char *directory, uint64_t inode, const char *old,
               const char *new)
{
    struct stat found;
    int error = take_lock(gate, study);
    if (error)
        return error;
    if (stat(directory, &found))
        error = errno;
    else if ((uint64_t)found.st_ino != inode)
        error = ESTALE;
    else if (renameat2(AT_FDCWD, old, AT_FDCWD, new, RENAME_NOREPLACE))
        error = errno;
    lock(study, LOCK_UN);
    return error;
}

PyDoc_STRVAR(add_new_doc, "add_new(gate, lock, directory, inode, old, new, fd) -> errno");

static PyObject *add_new(PyObject *self, PyObject *args)
{
    const char *directory, *old, *new;
    unsigned long long inode;
    int gate, study, fd, error;
    (void)self;
    if (!PyArg_ParseTuple(args, "iisKssi", &gate, &study, &directory, &inode, &old, &new, &fd))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    error = add(gate, study, directory, inode, old, new);
    if (!error)
        close(fd);
    Py_END_ALLOW_THREADS
    return PyLong_FromLong(error);
}

/* --- store -------------------------------------------------------------------------------- */

#define NAME_BYTES 1024
#define UID_BYTES 64
/* A C-STORE-RQ's has some 100. */
#define MAX_COMMAND_BYTES 1024
#define HEAD_ROOM 1024
/* A C-STORE-RSP of a success is shorter. */
#define REPLY_ROOM 512
#define C_STORE_RQ 0x0001
#define C_STORE_RSP 0x8001
#define NO_DATA_SET 0x0101
#define PREAMBLE_BYTES 128
/* What a data set like this has before its pixels at most; more is for Python. */
#define MAX_ELEMENTS 10000

/* What is known beforehand, since the C-STORE before was of the same kind. */
struct lane {
    int context_id, encoding, is_synced, gate, lock;
    uint64_t inode;
    Py_buffer sop_class, study, before, after;
    const char *directory, *partials;
};

struct bytes {
    const uint8_t *at;
    size_t n;
};

/* A C-STORE in the buffer. */
struct message {
    struct bytes command, sop_class, uid; /* of the command, as sent */
    uint32_t id;
    size_t n_bytes, n_data;
    size_t missing; /* if it is not whole: what must still come at least */
    int n_pieces;
    struct iovec pieces[MAX_PIECES + 1]; /* the file's: its head, and the data set */
};

struct storing {
    struct lane lane;
    struct pouring socket; /* for its socket and buffer only */
    struct message message;
    uint64_t number;
    /* when the turn ends, and when the message began to come that is not whole yet; 0: none is */
    long long until_ns, begun_ns;
    /* the file of a message that is still coming, -1: none yet; how much of it is in there already */
    int fd, n_written;
    char partial[NAME_BYTES];
    int n_stored;
    uint8_t reply[REPLY_ROOM];
    size_t n_reply, n_sent;
};

static struct bytes unpadded(struct bytes value)
{
    while (value.n && (value.at[value.n - 1] == 0 || value.at[value.n - 1] == ' '))
        value.n--;
    return value;
}

static int are_same(struct bytes a, const void *b, size_t n)
{
    return a.n == n && !memcmp(a.at, b, n);
}

/* As PS3.5 9.1 wants it, which forbids leading zeros, too. */
static int is_uid(struct bytes uid)
{
    if (!uid.n || uid.n > UID_BYTES)
        return 0;
    size_t begin = 0;
    for (size_t i = 0; i <= uid.n; i++) {
        if (i < uid.n && uid.at[i] >= '0' && uid.at[i] <= '9')
            continue;
        if (i < uid.n && uid.at[i] != '.')
            return 0;
        if (i == begin || (uid.at[begin] == '0' && i - begin > 1))
            return 0;
        begin = i + 1;
    }
    return 1;
}

/* The command set: whether it is a C-STORE-RQ of the lane. */
static int read_command(const struct lane *lane, struct message *m)
{
    struct element e;
    int64_t previous = -1;
    int found = 0;
    if (m->command.n > MAX_COMMAND_BYTES)
        return 0;
    for (Py_ssize_t at = 0, size = (Py_ssize_t)m->command.n; at < size; at = e.begin + e.length) {
        const uint8_t *p = m->command.at;
        if (!read_head(p, at, size, IMPLICIT_LE, &e) || e.tag <= previous || e.tag > 0xFFFF
            || (uint64_t)e.length > (uint64_t)(size - e.begin))
            return 0;
        previous = e.tag;
        p += e.begin;
        struct bytes value = {p, e.length};
        int is_short = e.length == 2;
        /* What is echoed in the answer is bounded as it was sent, padding and all. */
        int is_uid_long = e.length <= UID_BYTES;
        if (e.tag == 0x0002 && is_uid_long
            && are_same(unpadded(value), lane->sop_class.buf, lane->sop_class.len))
            m->sop_class = value, found |= 1;
        if (e.tag == 0x0100 && is_short && u16(p, 0) == C_STORE_RQ)
            found |= 2;
        if (e.tag == 0x0110 && is_short)
            m->id = u16(p, 0), found |= 4;
        if (e.tag == 0x0800 && is_short && u16(p, 0) != NO_DATA_SET)
            found |= 8;
        if (e.tag == 0x1000 && is_uid_long && is_uid(unpadded(value)))
            m->uid = value, found |= 16;
    }
    return found == 31;
}

/* The C-STORE that begins at `start`: ENDED if it is whole, IDLE if more must come. */
static int find_message(const struct lane *lane, const struct pouring *s, struct message *m)
{
    const uint8_t *p = s->buffer + s->start, *end = s->buffer + s->end;
    m->command.at = NULL;
    m->n_data = 0;
    m->n_pieces = 1; /* the first is the file's head */
    for (;;) {
        size_t here = (size_t)(end - p);
        if (here && p[0] != P_DATA_TF)
            return UNUSUAL;
        if (here < HEAD_BYTES) {
            m->missing = HEAD_BYTES - here;
            return IDLE;
        }
        uint64_t length = u32(p + 2, 1);
        if (length < HEAD_BYTES || length > s->capacity)
            return UNUSUAL;
        if (here < HEAD_BYTES + length) {
            m->missing = (size_t)(HEAD_BYTES + length - here);
            return IDLE;
        }
        const uint8_t *pdu_end = p + HEAD_BYTES + length;
        for (p += HEAD_BYTES; p < pdu_end;) {
            size_t left = (size_t)(pdu_end - p);
            uint64_t n = left < HEAD_BYTES ? 0 : u32(p, 1);
            if (n < 2 || n + 4 > left || p[4] != lane->context_id)
                return UNUSUAL;
            int control = p[5];
            struct bytes value = {p + HEAD_BYTES, (size_t)n - 2};
            p += 4 + n;
            if (!m->command.at) {
                if ((control & (COMMAND | LAST)) != (COMMAND | LAST))
                    return UNUSUAL;
                m->command = value;
                if (!read_command(lane, m))
                    return UNUSUAL;
                continue;
            }
            /* Each piece counts, so that looking at them again as more comes stays cheap. */
            if (control & COMMAND || m->n_pieces > MAX_PIECES || !value.n)
                return UNUSUAL;
            m->pieces[m->n_pieces].iov_base = (void *)value.at;
            m->pieces[m->n_pieces++].iov_len = value.n;
            m->n_data += value.n;
            if (control & LAST) {
                m->n_bytes = (size_t)(p - (s->buffer + s->start));
                return p == pdu_end ? ENDED : UNUSUAL;
            }
        }
    }
}

/* As headers.glance and handlers._checked: whether it is what the command says, and of the lane's
 * study. All of that shows in its first piece, or it is for Python. How long it has to be; 0: it is
 * not as said. */
static uint64_t said_bytes(const struct lane *lane, const struct message *m)
{
    static const int64_t wanted[] = {0x00080016, 0x00080018, 0x0020000D, 0x0020000E};
    if (m->n_pieces < 2)
        return 0;
    const uint8_t *data = m->pieces[1].iov_base;
    Py_ssize_t size = (Py_ssize_t)m->pieces[1].iov_len, at = 0;
    uint64_t end = 0;
    int64_t previous = -1;
    struct bytes found[4] = {{NULL, 0}};
    for (int left = MAX_ELEMENTS; at < size; left--) {
        struct element e;
        if (!left || !read_head(data, at, size, (enum encoding)lane->encoding, &e)
            || e.tag <= previous || e.length == UNDEFINED)
            return 0;
        end = (uint64_t)e.begin + e.length;
        int is_here = end <= (uint64_t)size;
        for (int i = 0; i < 4; i++)
            if (e.tag == wanted[i]) {
                struct bytes value = {data + e.begin, e.length};
                if (!is_here)
                    return 0;
                found[i] = unpadded(value);
            }
        if (!is_here)
            break;
        previous = e.tag;
        at = (Py_ssize_t)end;
    }
    struct bytes uid = unpadded(m->uid);
    int is_said = are_same(found[0], lane->sop_class.buf, lane->sop_class.len)
                  && are_same(found[1], uid.at, uid.n)
                  && are_same(found[2], lane->study.buf, lane->study.len) && is_uid(found[3]);
    return is_said ? end : 0;
}

static size_t put(uint8_t *to, const void *value, size_t n)
{
    memcpy(to, value, n);
    return n;
}

static size_t put_le(uint8_t *to, uint64_t value, int n)
{
    for (int i = 0; i < n; i++)
        to[i] = (uint8_t)(value >> 8 * i);
    return (size_t)n;
}

static size_t put_be32(uint8_t *to, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        to[i] = (uint8_t)(value >> (24 - 8 * i));
    return 4;
}

/* As incoming.file_meta and durability.sealed: what stands before the data set. */
static size_t make_head(const struct lane *lane, const struct message *m, uint64_t n_data,
                        uint8_t *head)
{
    struct bytes uid = unpadded(m->uid);
    size_t padded = uid.n + uid.n % 2;
    size_t group = (size_t)lane->before.len + 8 + padded + (size_t)lane->after.len;
    size_t n = PREAMBLE_BYTES;
    memset(head, 0, PREAMBLE_BYTES);
    n += put(head + n, "DICM\2\0\0\0UL\4\0", 12);
    n += put_le(head + n, group, 4);
    n += put(head + n, lane->before.buf, (size_t)lane->before.len);
    n += put(head + n, "\2\0\3\0UI", 6);
    n += put_le(head + n, padded, 2);
    n += put(head + n, uid.at, uid.n);
    if (uid.n % 2)
        head[n++] = 0;
    n += put(head + n, lane->after.buf, (size_t)lane->after.len);
    if (lane->is_synced) {
        put(head, "PACSORTK", 8);
        put_le(head + 8, n + n_data, 8);
    }
    return n;
}

static size_t put_element(uint8_t *to, uint32_t number, struct bytes value)
{
    size_t n = put_le(to, 0, 2);
    n += put_le(to + n, number, 2);
    n += put_le(to + n, value.n + value.n % 2, 4);
    n += put(to + n, value.at, value.n);
    if (value.n % 2)
        to[n++] = 0;
    return n;
}

static size_t put_us(uint8_t *to, uint32_t number, uint32_t value)
{
    uint8_t two[2] = {(uint8_t)value, (uint8_t)(value >> 8)};
    struct bytes bytes = {two, 2};
    return put_element(to, number, bytes);
}

/* As commands.store_response, of a success. */
static size_t make_reply(const struct lane *lane, const struct message *m, uint8_t *reply)
{
    uint8_t *set = reply + 2 * HEAD_BYTES;
    size_t n = 12; /* the group's length comes last */
    n += put_element(set + n, 0x0002, m->sop_class);
    n += put_us(set + n, 0x0100, C_STORE_RSP);
    n += put_us(set + n, 0x0120, m->id);
    n += put_us(set + n, 0x0800, NO_DATA_SET);
    n += put_us(set + n, 0x0900, 0);
    n += put_element(set + n, 0x1000, m->uid);
    uint8_t four[4];
    put_le(four, n - 12, 4);
    struct bytes length = {four, 4};
    put_element(set, 0x0000, length);
    reply[0] = P_DATA_TF;
    reply[1] = 0;
    put_be32(reply + 2, (uint32_t)n + 6);
    put_be32(reply + 6, (uint32_t)n + 2);
    reply[10] = (uint8_t)lane->context_id;
    reply[11] = COMMAND | LAST;
    return n + 2 * HEAD_BYTES;
}

static int make_final(const struct storing *s, char *final)
{
    struct bytes uid = unpadded(s->message.uid);
    int n = snprintf(final, NAME_BYTES, "%s/%.*s.dcm", s->lane.directory, (int)uid.n, uid.at);
    return n > 0 && n < NAME_BYTES;
}

/* Its file, with all in it that has come: whether that could be. If not, there is none. */
static int begin_file(struct storing *s, uint64_t n_data)
{
    struct message *m = &s->message;
    char final[NAME_BYTES];
    uint8_t head[HEAD_ROOM];
    int n = snprintf(s->partial, NAME_BYTES, "%s.%llu.partial", s->lane.partials,
                     (unsigned long long)++s->number);
    /* A duplicate would be written, and synced, only to be thrown away. */
    if (n < 0 || n >= NAME_BYTES || !make_final(s, final) || !access(final, F_OK))
        return 0;
    m->pieces[0].iov_base = head;
    m->pieces[0].iov_len = make_head(&s->lane, m, n_data, head);
    if (make_file(s->partial, m->pieces, m->n_pieces, 0, &s->fd)) {
        s->fd = -1;
        return 0;
    }
    s->n_written = m->n_pieces;
    return 1;
}

static int write_more(struct storing *s)
{
    struct iovec *left = s->message.pieces + s->n_written;
    int n = s->message.n_pieces - s->n_written;
    /* write_all leaves its pieces as it likes; each is found anew with its message. */
    if (write_all(s->fd, left, n))
        return 0;
    s->n_written = s->message.n_pieces;
    return 1;
}

/* Nothing of it stays. All of it is still unread. */
static void drop_file(struct storing *s)
{
    if (s->fd >= 0) {
        close(s->fd);
        unlink(s->partial);
        s->fd = -1;
    }
}

/* Of a message that is not whole: what has come goes to its file while the rest comes. Whether it is
 * of use to wait for that: for what is of another kind, or does not fit into the buffer, it is not. */
static int keep_up(struct storing *s)
{
    struct message *m = &s->message;
    size_t n_unwritten = 0;
    for (int i = s->fd < 0 ? 1 : s->n_written; i < m->n_pieces; i++)
        n_unwritten += m->pieces[i].iov_len;
    if (n_unwritten < LARGE_BYTES / 2)
        return 1;
    if (s->fd >= 0)
        return write_more(s);
    uint64_t n_data = said_bytes(&s->lane, m);
    return n_data && n_data < s->socket.capacity && begin_file(s, n_data);
}

/* The whole instance into its study: whether that was done. If not, nothing was. */
static int keep(struct storing *s)
{
    const struct lane *lane = &s->lane;
    struct message *m = &s->message;
    char final[NAME_BYTES];
    int is_kept = said_bytes(lane, m) == m->n_data && make_final(s, final)
                  && (s->fd < 0 ? begin_file(s, m->n_data) : write_more(s))
                  && (!lane->is_synced || !fdatasync(s->fd))
                  && !add(lane->gate, lane->lock, lane->directory, lane->inode, s->partial, final);
    if (!is_kept) {
        drop_file(s);
        return 0;
    }
    close(s->fd);
    s->fd = -1;
    return 1;
}

/* Whatever of the answer the connection takes now. */
static int answer(struct storing *s)
{
    s->n_reply = make_reply(&s->lane, &s->message, s->reply);
    s->n_sent = 0;
    ssize_t n;
    do
        n = send(s->socket.sock, s->reply, s->n_reply, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
        s->socket.error = errno;
        return SOCKET_FAILED;
    }
    s->n_sent = n < 0 ? 0 : (size_t)n;
    return s->n_sent < s->n_reply ? ENOUGH : -1;
}

/* Read on: -1 if something came, or why not. What is unread is at the buffer's beginning then. */
static int read_on(struct pouring *p, size_t missing)
{
    memmove(p->buffer, p->buffer + p->start, p->end - p->start);
    p->end -= p->start;
    p->start = 0;
    if (missing > p->capacity - p->end)
        return UNUSUAL;
    for (;;) {
        ssize_t n = recv(p->sock, p->buffer + p->end, p->capacity - p->end, MSG_DONTWAIT);
        if (n > 0) {
            p->end += (size_t)n;
            return -1;
        }
        if (n == 0)
            return HUNG_UP;
        if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if (!wait_for_more(p, missing < LARGE_BYTES ? missing : LARGE_BYTES))
                return IDLE;
        } else if (errno != EINTR) {
            p->error = errno;
            return SOCKET_FAILED;
        }
    }
}

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* More of a message that is not whole: -1 if something came, or why not. However slowly it comes,
 * Python has its turn in time. */
static int go_on(struct storing *s)
{
    int stop = read_on(&s->socket, s->message.missing);
    if (stop >= 0)
        return stop;
    long long now = now_ns();
    if (!s->begun_ns)
        s->begun_ns = now;
    return now - s->begun_ns > s->socket.patience_ms * 1000000LL ? IDLE : -1;
}

static int store_all(struct storing *s)
{
    int stop = -1;
    while (stop < 0) {
        stop = find_message(&s->lane, &s->socket, &s->message);
        if (stop == IDLE) {
            stop = keep_up(s) ? go_on(s) : UNUSUAL;
        } else if (stop == ENDED) {
            if (!keep(s))
                return UNUSUAL;
            s->n_stored++;
            s->socket.start += s->message.n_bytes;
            s->begun_ns = 0;
            stop = answer(s);
            if (stop < 0 && now_ns() >= s->until_ns)
                stop = ENOUGH;
        }
    }
    return stop;
}

PyDoc_STRVAR(store_doc,
"store(sock, wake, buffer, start, end, patience_ms, until_ns, number, context_id, encoding,\n"
"      is_synced, gate, lock, inode, sop_class, study, before, after, directory, partials)\n"
"-> (stop, errno, start, end, n_stored, number, unsent)");

static PyObject *store(PyObject *self, PyObject *args)
{
    Py_buffer buffer;
    Py_ssize_t start, end;
    unsigned long long number, inode;
    PyObject *said = NULL;
    struct storing *s = PyMem_RawCalloc(1, sizeof *s);
    (void)self;
    if (!s)
        return PyErr_NoMemory();
    struct lane *lane = &s->lane;
    struct pouring *p = &s->socket;
    if (!PyArg_ParseTuple(args, "iiw*nniLKiipiiKy*y*y*y*ss", &p->sock, &p->wake, &buffer, &start,
                          &end, &p->patience_ms, &s->until_ns, &number, &lane->context_id,
                          &lane->encoding, &lane->is_synced, &lane->gate, &lane->lock, &inode,
                          &lane->sop_class, &lane->study, &lane->before, &lane->after,
                          &lane->directory, &lane->partials)) {
        PyMem_RawFree(s);
        return NULL;
    }
    if (start < 0 || end < start || end > buffer.len || lane->encoding < 0
        || lane->encoding >= N_ENCODINGS || lane->sop_class.len > UID_BYTES
        || lane->before.len + lane->after.len > HEAD_ROOM - PREAMBLE_BYTES - 32 - UID_BYTES) {
        PyErr_SetString(PyExc_ValueError, "no such lane");
    } else {
        int stop;
        p->buffer = buffer.buf;
        p->capacity = (size_t)buffer.len;
        p->start = (size_t)start;
        p->end = (size_t)end;
        p->lowest = 1;
        s->fd = -1;
        s->number = number;
        lane->inode = inode;
        Py_BEGIN_ALLOW_THREADS
        stop = store_all(s);
        drop_file(s);
        wake_at(p, 1);
        Py_END_ALLOW_THREADS
        said = Py_BuildValue("iinniKy#", stop, p->error, (Py_ssize_t)p->start, (Py_ssize_t)p->end,
                             s->n_stored, (unsigned long long)s->number,
                             (const char *)s->reply + s->n_sent,
                             (Py_ssize_t)(s->n_reply - s->n_sent));
    }
    PyBuffer_Release(&buffer);
    Py_buffer *lent[] = {&lane->sop_class, &lane->study, &lane->before, &lane->after};
    for (int i = 0; i < 4; i++)
        PyBuffer_Release(lent[i]);
    PyMem_RawFree(s);
    return said;
}

/* --- the module --------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"stride", stride, METH_VARARGS, stride_doc},
    {"pour", pour, METH_VARARGS, pour_doc},
    {"fill", native_fill, METH_VARARGS, fill_doc},
    {"write_new", write_new, METH_VARARGS, write_new_doc},
    {"add_new", add_new, METH_VARARGS, add_new_doc},
    {"store", store, METH_VARARGS, store_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_native", "The inner loops of receiving.", -1, methods,
    NULL, NULL, NULL, NULL,
};

/* Of this file as it was compiled, if setup.py did it. */
#ifndef SOURCE_CRC
#define SOURCE_CRC -1
#endif

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *made = PyModule_Create(&module);
    if (made
        && (PyModule_AddIntConstant(made, "SOURCE_CRC", SOURCE_CRC)
            || PyModule_AddIntConstant(made, "REPLY_BYTES", REPLY_ROOM)
            || PyModule_AddIntConstant(made, "ENDED", ENDED)
            || PyModule_AddIntConstant(made, "IDLE", IDLE)
            || PyModule_AddIntConstant(made, "ENOUGH", ENOUGH)
            || PyModule_AddIntConstant(made, "UNUSUAL", UNUSUAL)
            || PyModule_AddIntConstant(made, "HUNG_UP", HUNG_UP)
            || PyModule_AddIntConstant(made, "SOCKET_FAILED", SOCKET_FAILED)
            || PyModule_AddIntConstant(made, "FILE_FAILED", FILE_FAILED))) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
