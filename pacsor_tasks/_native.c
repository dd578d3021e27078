/* The inner loops of receiving, compiled. Optional: each has a twin in Python that does the same.
 *
 *   stride     over the elements of a data set      (pacsor_tasks/dicom/elements.py)
 *   fill       a buffer from a socket               (receiver/buffered_socket.py)
 *   pour       P-DATA from a socket into a file     (receiver/pdata.py, inbound.py, incoming.py)
 *   write_new  a file, whole and synced             (receiver/incoming.py)
 *   add_new    a file to its study                  (receiver/associations.py)
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

/* --- the module --------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"stride", stride, METH_VARARGS, stride_doc},
    {"pour", pour, METH_VARARGS, pour_doc},
    {"fill", native_fill, METH_VARARGS, fill_doc},
    {"write_new", write_new, METH_VARARGS, write_new_doc},
    {"add_new", add_new, METH_VARARGS, add_new_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_native", "The inner loops of receiving.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *made = PyModule_Create(&module);
    if (made
        && (PyModule_AddIntConstant(made, "ENDED", ENDED)
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
