/* Faults for the crash test, preloaded into the process under test.

   Counts, by phase, the calls that concern the state directory or a TCP socket, and at one
   armed number kills the process, fails an fsync or fails a write. Keeps, in a shadow folder,
   only what a power failure would leave:
     f.<inode>  the content of a file at its last fsync,
     d.<inode>  the entries of a folder at its last fsync ("name TAB inode TAB is-folder").
   After a failed fsync of a file the kernel takes its pages for clean: what is not written again
   never reaches the disk, however often fsync is called. The shadow follows that by pages.

   What it cannot show: writes torn or reordered within one fsync, and mapped memory. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PHASES = 8, GROUPS = 3, WHAT = 256, PAGE = 4096, POISONED = 16, PAGES = 65536 };
enum { ANY, SYNC, SPACE };                        /* groups of calls that are numbered */
enum { NOTHING, KILL, FAIL_SYNC, NO_SPACE_ONCE, NO_SPACE_FROM_HERE };
enum { LIE_FILES = 1, LIE_FOLDERS = 2 };          /* fsync of the spool that does nothing */

/* Shared with the parent, which reads it when this process is dead. */
struct tally {
  int64_t counts[PHASES][GROUPS];
  int64_t is_hit;
  char what[WHAT];
};

static struct tally *tally;
static char root[512], shadow[512];
static size_t root_length;
static int64_t phase, armed_phase, armed_at, action, lies, is_full, snapshots;
static struct poison { ino_t inode; unsigned char *is_rewritten; } poisoned[POISONED];
static pthread_mutex_t shadow_lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

/* ---- armed from Python ---------------------------------------------------------------- */

int faults_watch(const char *state, const char *shadow_folder, const char *tally_path) {
  int descriptor = open(tally_path, O_RDWR | O_CREAT, 0600);
  if (descriptor < 0 || ftruncate(descriptor, sizeof *tally)) return -1;
  void *memory = mmap(NULL, sizeof *tally, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  close(descriptor);
  if (memory == MAP_FAILED) return -1;
  snprintf(root, sizeof root, "%s", state);
  snprintf(shadow, sizeof shadow, "%s", shadow_folder);
  root_length = strlen(root);
  tally = memory;
  return 0;
}

void faults_arm(long in_phase, long at, long do_action, long lying) {
  armed_phase = in_phase; armed_at = at; action = do_action; lies = lying;
}

void faults_phase(long next) { phase = next; }

/* ---- what a call is about ------------------------------------------------------------- */

static int is_below_root(const char *path) {
  return tally && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

/* The path behind a descriptor below the state directory, "" for a TCP socket, NULL for others. */
static const char *subject(int descriptor, char *path, size_t size) {
  if (!tally) return NULL;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, size - 1);
  if (length < 0) return NULL;
  path[length] = 0;
  if (is_below_root(path)) return path;
  if (!strncmp(path, "socket:", 7)) {
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    if (!getsockname(descriptor, (struct sockaddr *)&address, &bytes) &&
        (address.ss_family == AF_INET || address.ss_family == AF_INET6)) {
      path[0] = 0;
      return path;
    }
  }
  return NULL;
}

static void note(const char *call, const char *path) {
  if (__atomic_exchange_n(&tally->is_hit, 1, __ATOMIC_SEQ_CST)) return;
  snprintf(tally->what, WHAT, "%s %s", call, *path ? path + root_length : "(socket)");
}

/* Counts a call; true when it is the armed one. */
static int is_armed(int group, const char *call, const char *path) {
  int64_t number = __atomic_add_fetch(&tally->counts[phase][group], 1, __ATOMIC_SEQ_CST);
  if (phase != armed_phase || number != armed_at) return 0;
  int wanted = action == KILL ? ANY : action == FAIL_SYNC ? SYNC : action == NOTHING ? -1 : SPACE;
  if (group != wanted) return 0;
  note(call, path);
  return 1;
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

/* Counts a call that takes space; true when it must fail for lack of it. */
static int has_no_space(const char *call, const char *path) {
  if (is_armed(SPACE, call, path)) {
    if (action == NO_SPACE_FROM_HERE) is_full = 1;
    return 1;
  }
  return is_full != 0;
}

/* For calls without content: dies before the call, or says that there is no space. */
static int stands_before(const char *call, const char *path, int takes_space) {
  if (is_armed(ANY, call, path)) die();
  if (takes_space && has_no_space(call, path)) { errno = ENOSPC; return 1; }
  return 0;
}

/* ---- what a power failure leaves ------------------------------------------------------ */

static struct poison *poison_of(ino_t inode) {
  for (int i = 0; i < POISONED; i++)
    if (poisoned[i].is_rewritten && poisoned[i].inode == inode) return &poisoned[i];
  return NULL;
}

static void poison(int descriptor) {
  struct stat status;
  if (fstat(descriptor, &status) || !S_ISREG(status.st_mode)) return;
  pthread_mutex_lock(&shadow_lock);
  struct poison *known = poison_of(status.st_ino);
  for (int i = 0; !known && i < POISONED; i++)
    if (!poisoned[i].is_rewritten) {
      known = &poisoned[i];
      known->inode = status.st_ino;
      known->is_rewritten = malloc(PAGES);
    }
  if (known && known->is_rewritten) memset(known->is_rewritten, 0, PAGES);
  pthread_mutex_unlock(&shadow_lock);
}

static void note_rewritten(int descriptor, off_t offset, ssize_t length) {
  struct stat status;
  if (length <= 0 || fstat(descriptor, &status)) return;
  pthread_mutex_lock(&shadow_lock);
  struct poison *known = poison_of(status.st_ino);
  for (off_t page = offset / PAGE; known && page <= (offset + length - 1) / PAGE; page++)
    if (page < PAGES) known->is_rewritten[page] = 1;
  pthread_mutex_unlock(&shadow_lock);
}

static void copy_file(int descriptor, const char *kept, int target, struct poison *known) {
  ssize_t (*read_at)(int, void *, size_t, off_t) = REAL(pread);
  ssize_t (*put)(int, const void *, size_t) = REAL(write);
  int before = known ? open(kept, O_RDONLY) : -1;
  char page[PAGE], link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  int source = open(link, O_RDONLY);
  ssize_t length;
  for (off_t index = 0; (length = read_at(source, page, PAGE, index * PAGE)) > 0; index++) {
    if (known && index < PAGES && !known->is_rewritten[index]) {
      memset(page, 0, PAGE);
      if (before >= 0 && read_at(before, page, length, index * PAGE) < 0) break;
    }
    if (put(target, page, length) != length) break;
  }
  close(source);
  if (before >= 0) close(before);
}

static void copy_folder(const char *path, int target) {
  DIR *folder = opendir(path);
  if (!folder) return;
  struct dirent *entry;
  while ((entry = readdir(folder)))
    if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
      dprintf(target, "%s\t%lu\t%d\n", entry->d_name, (unsigned long)entry->d_ino,
              entry->d_type == DT_DIR);
  closedir(folder);
}

static void keep(int descriptor, const char *path) {
  struct stat status;
  char kept[640], part[704];
  if (fstat(descriptor, &status)) return;
  int is_folder = S_ISDIR(status.st_mode);
  snprintf(kept, sizeof kept, "%s/%c.%lu", shadow, is_folder ? 'd' : 'f',
           (unsigned long)status.st_ino);
  snprintf(part, sizeof part, "%s.part%ld", kept, (long)__atomic_add_fetch(&snapshots, 1, 0));
  pthread_mutex_lock(&shadow_lock);
  int target = open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (target >= 0) {
    if (is_folder) copy_folder(path, target);
    else copy_file(descriptor, kept, target, poison_of(status.st_ino));
    close(target);
    int (*move)(const char *, const char *) = REAL(rename);
    move(part, kept);
  }
  pthread_mutex_unlock(&shadow_lock);
}

/* Only below the spool: what the wrong variants leave out is the node's own care for it. */
static int is_lying(int descriptor, const char *path) {
  struct stat status;
  if (!lies || strncmp(path + root_length, "/spool", 6) || fstat(descriptor, &status)) return 0;
  return (S_ISDIR(status.st_mode) ? lies & LIE_FOLDERS : lies & LIE_FILES) != 0;
}

static int synced(int descriptor, const char *call) {
  char path[512];
  if (!subject(descriptor, path, sizeof path) || !*path)
    return ((int (*)(int))real(call))(descriptor);
  if (is_armed(ANY, call, path)) die();
  if (is_armed(SYNC, call, path)) {
    poison(descriptor);
    errno = EIO;
    return -1;
  }
  if (is_lying(descriptor, path)) return 0;
  keep(descriptor, path);  /* the real call adds nothing: a kill does not touch the cache */
  return 0;
}

int fsync(int descriptor) { return synced(descriptor, "fsync"); }
int fdatasync(int descriptor) { return synced(descriptor, "fdatasync"); }

/* ---- content -------------------------------------------------------------------------- */

/* In whole blocks where that is possible: past the page cache nothing else is taken. */
static size_t half(size_t length) { return length < 8192 ? length / 2 : length / 8192 * 4096; }

/* Before a write. Returns the bytes that may be written, or -1 with errno. */
static ssize_t allowed(const char *call, const char *path, size_t length, int *is_last) {
  if (is_armed(ANY, call, path)) {
    if (armed_at % 2 && length > 1) { *is_last = 1; return half(length); }  /* torn */
    die();
  }
  if (*path) {
    int was_full = is_full;
    if (has_no_space(call, path)) {
      if (!was_full && is_full && length > 1) return half(length);  /* the last blocks */
      errno = ENOSPC;
      return -1;
    }
  }
  return length;
}

static off_t position(int descriptor) {
  if (fcntl(descriptor, F_GETFL) & O_APPEND) {
    struct stat status;
    return fstat(descriptor, &status) ? 0 : status.st_size;
  }
  return lseek(descriptor, 0, SEEK_CUR);
}

ssize_t write(int descriptor, const void *content, size_t length) {
  char path[512];
  int is_last = 0;
  if (!subject(descriptor, path, sizeof path)) return REAL(write)(descriptor, content, length);
  ssize_t taken = allowed("write", path, length, &is_last);
  if (taken < 0) return -1;
  off_t offset = *path ? position(descriptor) : 0;
  ssize_t written = REAL(write)(descriptor, content, taken);
  if (is_last) die();
  if (*path) note_rewritten(descriptor, offset, written);
  return written;
}

static ssize_t written_at(int descriptor, const void *content, size_t length, off_t offset) {
  char path[512];
  int is_last = 0;
  ssize_t (*put)(int, const void *, size_t, off_t) = REAL(pwrite);
  if (!subject(descriptor, path, sizeof path)) return put(descriptor, content, length, offset);
  ssize_t taken = allowed("pwrite", path, length, &is_last);
  if (taken < 0) return -1;
  ssize_t written = put(descriptor, content, taken, offset);
  if (is_last) die();
  note_rewritten(descriptor, offset, written);
  return written;
}

ssize_t pwrite(int descriptor, const void *content, size_t length, off_t offset) {
  return written_at(descriptor, content, length, offset);
}

ssize_t pwrite64(int descriptor, const void *content, size_t length, off64_t offset) {
  return written_at(descriptor, content, length, offset);
}

ssize_t send(int descriptor, const void *content, size_t length, int flags) {
  char path[512];
  int is_last = 0;
  if (!subject(descriptor, path, sizeof path)) return REAL(send)(descriptor, content, length, flags);
  ssize_t taken = allowed("send", path, length, &is_last);
  if (taken < 0) return -1;
  ssize_t sent = REAL(send)(descriptor, content, taken, flags);
  if (is_last) die();
  return sent;
}

ssize_t sendto(int descriptor, const void *content, size_t length, int flags,
               const struct sockaddr *address, socklen_t address_length) {
  char path[512];
  if (subject(descriptor, path, sizeof path)) stands_before("sendto", path, 0);
  return REAL(sendto)(descriptor, content, length, flags, address, address_length);
}

ssize_t sendmsg(int descriptor, const struct msghdr *message, int flags) {
  char path[512];
  if (subject(descriptor, path, sizeof path)) stands_before("sendmsg", path, 0);
  return REAL(sendmsg)(descriptor, message, flags);
}

/* ---- names ---------------------------------------------------------------------------- */

static int is_new(const char *path, int flags) {
  return flags & O_CREAT && is_below_root(path) && access(path, F_OK);
}

#define OPEN(name)                                                                    \
  int name(const char *path, int flags, ...) {                                        \
    va_list rest;                                                                     \
    va_start(rest, flags);                                                            \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;         \
    va_end(rest);                                                                     \
    if (is_new(path, flags) && stands_before("open", path, 1)) return -1;             \
    return REAL(name)(path, flags, mode);                                             \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                  \
  int name(int folder, const char *path, int flags, ...) {                            \
    va_list rest;                                                                     \
    va_start(rest, flags);                                                            \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;         \
    va_end(rest);                                                                     \
    if (is_new(path, flags) && stands_before("openat", path, 1)) return -1;           \
    return REAL(name)(folder, path, flags, mode);                                     \
  }
OPENAT(openat)
OPENAT(openat64)

int rename(const char *old, const char *new) {
  if (is_below_root(new)) stands_before("rename", new, 0);
  return REAL(rename)(old, new);
}

int link(const char *old, const char *new) {
  if (is_below_root(new) && stands_before("link", new, 1)) return -1;
  return REAL(link)(old, new);
}

int unlink(const char *path) {
  if (is_below_root(path)) stands_before("unlink", path, 0);
  return REAL(unlink)(path);
}

int mkdir(const char *path, mode_t mode) {
  if (is_below_root(path) && access(path, F_OK) && stands_before("mkdir", path, 1)) return -1;
  return REAL(mkdir)(path, mode);
}

static int cut(int descriptor, off_t length, const char *call) {
  char path[512];
  struct stat status;
  if (subject(descriptor, path, sizeof path) && *path && !fstat(descriptor, &status) &&
      stands_before(call, path, length > status.st_size))
    return -1;
  return ((int (*)(int, off_t))real(call))(descriptor, length);
}

int ftruncate(int descriptor, off_t length) { return cut(descriptor, length, "ftruncate"); }
int ftruncate64(int descriptor, off64_t length) { return cut(descriptor, length, "ftruncate64"); }
