"""What a container runtime holds an ordinary container with: the calls that its filter lets through, the
capabilities it leaves, what it hides of /proc and /sys. As docker and containerd have them by default.

The filter allows what is listed and refuses the rest with EPERM; calls that its author did not know do not
exist (ENOSYS). Calls that some capability opens are not in the list when the default capabilities lack it.
"""

from __future__ import annotations

from typing import Any

CAPABILITIES = [
    f"CAP_{name}"
    for name in [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ]
]

_CALLS = """
read write open close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask
rt_sigreturn ioctl pread64 pwrite64 readv writev access pipe select sched_yield mremap msync mincore madvise
shmget shmat shmctl dup dup2 pause nanosleep getitimer alarm setitimer getpid sendfile connect accept sendto
recvfrom sendmsg recvmsg shutdown bind listen getsockname getpeername socketpair setsockopt getsockopt fork
vfork execve exit wait4 kill uname semget semop semctl shmdt msgget msgsnd msgrcv msgctl fcntl flock fsync
fdatasync truncate ftruncate getdents getcwd chdir fchdir rename mkdir rmdir creat link unlink symlink readlink
chmod fchmod chown fchown lchown umask gettimeofday getrlimit getrusage sysinfo times ptrace getuid getgid
setuid setgid geteuid getegid setpgid getppid getpgrp setsid setreuid setregid getgroups setgroups setresuid
getresuid setresgid getresgid getpgid setfsuid setfsgid getsid capget capset rt_sigpending rt_sigtimedwait
rt_sigqueueinfo rt_sigsuspend sigaltstack utime mknod statfs fstatfs getpriority setpriority sched_setparam
sched_getparam sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min
sched_rr_get_interval mlock munlock mlockall munlockall modify_ldt prctl arch_prctl setrlimit sync gettid
readahead setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr
lremovexattr fremovexattr tkill time futex sched_setaffinity sched_getaffinity set_thread_area io_setup
io_destroy io_getevents io_submit io_cancel get_thread_area epoll_create remap_file_pages getdents64
set_tid_address restart_syscall semtimedop fadvise64 timer_create timer_settime timer_gettime timer_getoverrun
timer_delete clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl tgkill utimes mq_open
mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr waitid ioprio_set ioprio_get inotify_init
inotify_add_watch inotify_rm_watch openat mkdirat mknodat fchownat futimesat newfstatat unlinkat renameat linkat
symlinkat readlinkat fchmodat faccessat pselect6 ppoll set_robust_list get_robust_list splice tee sync_file_range
vmsplice utimensat epoll_pwait signalfd timerfd_create eventfd fallocate timerfd_settime timerfd_gettime accept4
signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev rt_tgsigqueueinfo recvmmsg fanotify_mark
prlimit64 name_to_handle_at syncfs sendmmsg getcpu process_vm_readv process_vm_writev sched_setattr sched_getattr
renameat2 seccomp getrandom memfd_create execveat membarrier mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect
pkey_alloc pkey_free statx io_pgetevents rseq pidfd_send_signal pidfd_open close_range openat2 faccessat2
epoll_pwait2 landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret process_mrelease
futex_waitv adjtimex
"""
_OF_CAPABILITIES = {
    "SYS_CHROOT": "chroot",
    "SYS_ADMIN": "bpf clone fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr"
    " move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog"
    " umount umount2 unshare",
}
"""Calls that the filter lets through for those who have a capability."""

MASKED = [
    *(f"/proc/{name}" for name in ("acpi", "asound", "kcore", "keys", "latency_stats", "scsi")),
    *(f"/proc/{name}" for name in ("timer_list", "timer_stats", "sched_debug")),
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
]
READ_ONLY = [f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger")]


def system_calls(capabilities: list[str]) -> dict[str, Any]:
    """The filter as the runtime specification's ``linux.seccomp``."""
    names = _CALLS.split()
    for name, calls in _OF_CAPABILITIES.items():
        names += calls.split() if f"CAP_{name}" in capabilities else []
    rules: list[dict[str, Any]] = [_allow(names)]
    if "clone" not in names:  # new namespaces are refused; clone3's flags cannot be looked at
        rules.append(_allow(["clone"], _argument(0x7E02_0000, "SCMP_CMP_MASKED_EQ", valueTwo=0)))
        absent = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
        rules.append(absent)
    else:
        rules.append(_allow(["clone3"]))
    for family in range(46):  # not AF_ALG, not AF_VSOCK
        if family not in (38, 40):
            rules.append(_allow(["socket"], _argument(family)))
    for persona in (0x0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF):
        rules.append(_allow(["personality"], _argument(persona)))
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    }


def _allow(names: list[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ALLOW", "args": list(arguments)}


def _argument(value: int, operator: str = "SCMP_CMP_EQ", **more: int) -> dict[str, Any]:
    return {"index": 0, "value": value, "op": operator, **more}
