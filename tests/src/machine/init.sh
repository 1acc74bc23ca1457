# Process 1 of a machine: creates a root file system over the real one, and becomes systemd.
# $1: the carpd under test.
set -eu
# Any existing directory; the mount on it is private.
base=/mnt
mount --make-rprivate /
mount -t tmpfs -o mode=755 machine "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" machine "$base/root"
root=$base/root
# The program may be on a file system that the overlay does not show.
cp "$1" "$base/carpd"
rm -f "$root/usr/sbin/carpd"
install -m 755 "$base/carpd" "$root/usr/sbin/carpd"

mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount -t sysfs -o nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
for node in null zero full random urandom tty; do
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
# Tells systemd that there is no udev.
mount -o remount,bind,ro "$root/sys"

# Removes the real machine's units.
rm -rf "$root/etc/systemd/system"
mkdir -p "$root/etc/systemd/system"
printf '[Unit]\nDefaultDependencies=no\n' > "$root/etc/systemd/system/lab.target"

cd "$root"
mkdir -p old
pivot_root . old
umount -l /old
# As on a real system, the mounts of a unit are visible to others.
mount --make-rshared /
exec env -i container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=lab.target --log-target=console --show-status=0 </dev/null
