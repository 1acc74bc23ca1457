/* LD_PRELOAD: makes system calls of one process fail as often as a test requests.
 *
 * $CARP_TEST_FAILING names a file of 32-bit integers, a pair for each kind of call: how often it fails from now on, and
 * with which errno. For lists the second is ignored: the list is empty, and flagged as one that changed while the kernel
 * made it, as happens on a busy host.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { PACKET_RECEIVE, LIST_REQUEST, NOTIFICATION, TIMER, LIST, KINDS };

static volatile int32_t (*setting)[2];

/* Early, because later the process may not be allowed to open files. */
__attribute__((constructor)) static void start(void)
{
	const char *path = getenv("CARP_TEST_FAILING");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *map = MAP_FAILED;

	if (fd >= 0) {
		map = mmap(NULL, sizeof(int32_t[KINDS][2]), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
	}
	if (map == MAP_FAILED)
		abort();
	setting = map;
}

/* Whether this call is one of those that fail. */
static int fails(int kind)
{
	if (setting[kind][0] <= 0)
		return 0;
	setting[kind][0]--;
	errno = setting[kind][1];
	return 1;
}

static int is_netlink(int fd)
{
	int domain = 0;
	socklen_t length = sizeof(domain);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_NETLINK;
}

/* Whether it is the socket for notifications. */
static int hears_groups(int fd)
{
	struct sockaddr_nl address = { 0 };
	socklen_t length = sizeof(address);

	return getsockname(fd, (struct sockaddr *)&address, &length) == 0 && address.nl_groups != 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
	return fails(PACKET_RECEIVE) ? -1 : REAL(recvmsg)(fd, message, flags);
}

ssize_t send(int fd, const void *buffer, size_t length, int flags)
{
	const struct nlmsghdr *message = buffer;
	int lists = is_netlink(fd) && (message->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;

	return lists && fails(LIST_REQUEST) ? -1 : REAL(send)(fd, buffer, length, flags);
}

ssize_t recv(int fd, void *buffer, size_t length, int flags)
{
	struct nlmsghdr *message = buffer;
	ssize_t received;
	size_t left;

	if (is_netlink(fd) && hears_groups(fd) && fails(NOTIFICATION))
		return -1;
	received = REAL(recv)(fd, buffer, length, flags);
	if (received < (ssize_t)sizeof(*message) || (size_t)received > length || !is_netlink(fd))
		return received;
	/* Links come first, then addresses, so either a whole list of links is lost or nothing of it. */
	if (message->nlmsg_type != RTM_NEWLINK || !(message->nlmsg_flags & NLM_F_MULTI) || !fails(LIST))
		return received;
	for (left = received; NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
		message->nlmsg_flags |= NLM_F_DUMP_INTR;
		if (message->nlmsg_type == RTM_NEWLINK)
			message->nlmsg_type = NLMSG_NOOP;
	}
	return received;
}

int timerfd_settime(int fd, int flags, const struct itimerspec *wanted, struct itimerspec *before)
{
	return fails(TIMER) ? -1 : REAL(timerfd_settime)(fd, flags, wanted, before);
}
