/* LD_PRELOAD: a wall clock that a test can set, for one process.
 *
 * $CARP_TEST_WALL_CLOCK names a file of three 64-bit integers: by how many seconds the clock is wrong, since when (real
 * nanoseconds since 1970), and by how many seconds it was wrong before. The kernel's time stamps of received packets
 * follow, as they would if the machine's clock had been set: a packet that arrived before keeps its old stamp.
 * CLOCK_MONOTONIC is left alone, as by the kernel.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *setting;

/* Early, because later the process may not be allowed to open files. */
__attribute__((constructor)) static void start(void)
{
	const char *path = getenv("CARP_TEST_WALL_CLOCK");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *map = MAP_FAILED;

	if (fd >= 0) {
		map = mmap(NULL, 3 * sizeof(int64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
	}
	if (map == MAP_FAILED)
		abort();
	setting = map;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = (int)syscall(SYS_clock_gettime, clock, now);

	if (result == 0 && setting && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += setting[0];
	return result;
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	static ssize_t (*real)(int, struct msghdr *, int);
	struct cmsghdr *control;
	ssize_t length;

	if (!real)
		real = (ssize_t (*)(int, struct msghdr *, int))dlsym(RTLD_NEXT, "recvmsg");
	length = real(fd, message, flags);
	if (length < 0 || !setting)
		return length;
	for (control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control)) {
		struct timespec stamp;

		if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_TIMESTAMPNS)
			continue;
		memcpy(&stamp, CMSG_DATA(control), sizeof(stamp));
		if ((int64_t)stamp.tv_sec * 1000000000 + stamp.tv_nsec >= setting[1])
			stamp.tv_sec += setting[0];
		else
			stamp.tv_sec += setting[2];
		memcpy(CMSG_DATA(control), &stamp, sizeof(stamp));
	}
	return length;
}
