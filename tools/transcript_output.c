#include "tools/transcript_output.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The name of a recording without its folders and its extension: where it begins, and its length. */
static const char *stem_of(const char *name, int *length)
{
    if (strcmp(name, "-") == 0)
        name = "stdin";
    const char *slash = strrchr(name, '/'), *stem = slash ? slash + 1 : name, *dot = strrchr(stem, '.');
    *length = dot && dot > stem ? (int)(dot - stem) : (int)strlen(stem);
    return stem;
}

bool transcript_same_name(const char *a, const char *b)
{
    int n_a, n_b;
    const char *stem_a = stem_of(a, &n_a), *stem_b = stem_of(b, &n_b);
    return n_a == n_b && memcmp(stem_a, stem_b, (size_t)n_a) == 0;
}

int transcript_make_folder(const char *folder, struct err *err)
{
    char *path = strdup(folder);
    if (!path)
        return err_set(err, -ENOMEM, "no memory for a path");
    int r = 0;
    for (char *c = path + 1; r == 0 && path[0]; c++) {
        char end = *c;
        if (end != '/' && end != '\0')
            continue;
        *c = '\0';
        if (mkdir(path, 0777) < 0 && errno != EEXIST)
            r = err_set(err, -errno, "%s: %s", path, strerror(errno));
        *c = end;
        if (end == '\0')
            break;
    }
    struct stat st;
    if (r == 0 && (stat(folder, &st) < 0 || !S_ISDIR(st.st_mode)))
        r = err_set(err, -ENOTDIR, "%s: Not a directory", folder);
    free(path);
    return r;
}

static int write_error(const struct transcript_file *f, int error, struct err *err)
{
    return err_set(err, -error, "cannot write %s%s: %s", f->path ? "" : "to ",
                   f->path ? f->path : "standard output", strerror(error));
}

/* A temporary file has the permissions of mkstemp; the result shall have those of any new file. */
static void set_permissions(int fd)
{
    mode_t mask = umask(0);
    umask(mask);
    if (fchmod(fd, 0666 & ~mask) < 0)
        return; /* some file systems have none */
}

/* A handler of signals may ask for the name at any time. */
static void forget_temporary(struct transcript_file *f)
{
    char *name = f->temporary;
    f->temporary = NULL;
    atomic_signal_fence(memory_order_seq_cst);
    free(name);
}

static int open_file(struct transcript_file *f, const char *folder, struct err *err)
{
    int length;
    const char *stem = stem_of(f->transcript.name, &length);
    if (asprintf(&f->path, "%s/%.*s.%s", folder, length, stem, f->format->extension) < 0) {
        f->path = NULL;
        return err_set(err, -ENOMEM, "no memory for a path");
    }
    /* The temporary name is short enough, whatever the final one: that shows before the work, not behind it. */
    long most = pathconf(folder, _PC_NAME_MAX);
    if (most > 0 && strlen(f->path) - strlen(folder) - 1 > (size_t)most)
        return err_set(err, -ENAMETOOLONG,
                       "with .%s its name would have more than the %ld bytes that names in %s may have",
                       f->format->extension, most, folder);
    if (asprintf(&f->temporary, "%s/.captiond-XXXXXX", folder) < 0) {
        f->temporary = NULL;
        return err_set(err, -ENOMEM, "no memory for a path");
    }
    int fd = mkstemp(f->temporary);
    if (fd < 0) {
        int error = errno;
        forget_temporary(f);
        return write_error(f, error, err);
    }
    set_permissions(fd);
    f->transcript.out = fdopen(fd, "w");
    if (f->transcript.out)
        return 0;
    int error = errno;
    close(fd);
    return write_error(f, error, err);
}

/* What a format answered, or what the stream has to say: why, is in errno, which was 0 before the format wrote. */
static int check(struct transcript_file *f, int status, struct err *err)
{
    if (status < 0)
        return err_set(err, status, "no memory for the transcript");
    if (!f->temporary && fflush(f->transcript.out) != 0)
        return write_error(f, errno ? errno : EIO, err);
    return ferror(f->transcript.out) ? write_error(f, errno ? errno : EIO, err) : 0;
}

int transcript_output_open(struct transcript_output *o, const struct transcript_target *target,
                           const char *name, struct err *err)
{
    *o = (struct transcript_output){.n = 0};
    int r = 0;
    for (int i = 0; r == 0 && transcript_formats[i].name; i++) {
        if (!(target->formats >> i & 1))
            continue;
        struct transcript_file *f = &o->files[o->n++];
        f->format = &transcript_formats[i];
        f->transcript = (struct transcript){
            .name = name, .layout = target->layout, .out = target->folder ? NULL : stdout};
        if (target->folder)
            r = open_file(f, target->folder, err);
        errno = 0;
        if (r == 0 && f->format->begin)
            r = check(f, f->format->begin(&f->transcript), err);
    }
    if (r < 0)
        transcript_output_abandon(o);
    return r;
}

int transcript_output_segment(struct transcript_output *o, const struct longform_segment *s, struct err *err)
{
    int r = 0;
    errno = 0;
    for (int i = 0; r == 0 && i < o->n; i++)
        r = check(&o->files[i], o->files[i].format->segment(&o->files[i].transcript, s), err);
    return r;
}

static int complete(struct transcript_file *f, const struct longform_result *result, struct err *err)
{
    errno = 0;
    int r = check(f, f->format->end ? f->format->end(&f->transcript, result) : 0, err);
    if (r < 0 || !f->temporary)
        return r;
    FILE *out = f->transcript.out;
    f->transcript.out = NULL;
    return fclose(out) != 0 ? write_error(f, errno, err) : 0;
}

int transcript_output_finish(struct transcript_output *o, const struct longform_result *result,
                             struct err *err)
{
    int r = 0;
    for (int i = 0; r == 0 && i < o->n; i++)
        r = complete(&o->files[i], result, err);
    for (int i = 0; r == 0 && i < o->n; i++) {
        struct transcript_file *f = &o->files[i];
        if (!f->temporary)
            continue;
        if (rename(f->temporary, f->path) < 0)
            r = write_error(f, errno, err);
        else
            forget_temporary(f);
    }
    transcript_output_abandon(o);
    return r;
}

void transcript_output_abandon(struct transcript_output *o)
{
    for (int i = 0; i < o->n; i++) {
        struct transcript_file *f = &o->files[i];
        if (f->path && f->transcript.out)
            fclose(f->transcript.out);
        if (f->temporary)
            unlink(f->temporary);
        forget_temporary(f);
        free(f->path);
        transcript_finish(&f->transcript);
    }
    o->n = 0;
}

void transcript_output_unlink(const struct transcript_output *o)
{
    for (int i = 0; i < o->n; i++) {
        const char *name = o->files[i].temporary;
        if (name)
            unlink(name);
    }
}
