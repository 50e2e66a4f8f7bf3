/* Preloaded into tgtd: its disk threads take their time before some writes, so that they overtake each other. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
	static __thread unsigned state;
	static ssize_t (*real)(int, const void *, size_t, off64_t);
	if (!real)
		real = dlsym(RTLD_NEXT, "pwrite64");
	if (!state) {
		struct timespec now;
		clock_gettime(CLOCK_MONOTONIC, &now);
		state = now.tv_nsec | 1;
	}
	state = state * 1103515245u + 12345u;
	unsigned pick = (state >> 8) % 100;
	if (pick < 2)
		usleep(200000);
	else if (pick < 20)
		usleep((state >> 8) % 20000);
	return real(fd, data, length, offset);
}
