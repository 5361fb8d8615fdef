/* A guest init for tests: loads the modules it is told to, says what it finds on the console, and ends the guest. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <termios.h>
#include <unistd.h>

static int load_modules(void)
{
	char path[256];
	int count = 0;
	FILE *list = fopen("/modules.list", "r");

	while (list && fgets(path, sizeof path, list)) {
		path[strcspn(path, "\n")] = 0;
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) != 0)
			printf("FAILED %s\n", path);
		else
			count++;
		close(fd);
	}
	return count;
}

static int supported(const char *name)
{
	char line[64];
	int found = 0;
	FILE *list = fopen("/proc/filesystems", "r");

	while (list && fgets(line, sizeof line, list))
		found |= strncmp(strrchr(line, '\t') + 1, name, strlen(name)) == 0;
	return found;
}

int main(void)
{
	struct utsname name;

	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	int modules = load_modules();
	uname(&name);
	printf("MARKER version=%s modules=%d erofs=%d ext4=%d overlay=%d vda=%d console=%d cgroup2=%d\n", name.release,
	       modules, supported("erofs"), supported("ext4"), supported("overlay"), access("/dev/vda", F_OK) == 0,
	       access("/dev/hvc0", F_OK) == 0, supported("cgroup2"));
	fflush(stdout);
	tcdrain(1);
	sync();
	reboot(RB_AUTOBOOT);
	return 0;
}
