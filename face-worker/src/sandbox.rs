//! What the worker gives up once its models are loaded: files, network, other programs, and memory without end.
//!
//! Best effort by layers: limits always hold; Landlock needs Linux 5.13 and seccomp a kernel built with it. What a kernel
//! lacks is left out and said in the report.

use std::collections::BTreeMap;

use landlock::{
    ABI, Access, AccessFs, AccessNet, Compatible, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, SeccompRule};

/// Which layers hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// How much of the Landlock rules the kernel enforces.
    pub landlock: &'static str,
    /// Whether the system call filter is in force.
    pub seccomp: bool,
}

/// A layer that must hold on every kernel does not.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The memory limit.
    #[error(
        "the memory limit of {mb} MB cannot be set ({source}); give a smaller --memory-max-mb or raise `ulimit -d`"
    )]
    Memory {
        /// As asked for.
        mb: u64,
        /// Why.
        source: rustix::io::Errno,
    },
}

/// Limits the process's memory and forbids core dumps, which would hold faces. To be called before models are loaded.
///
/// # Errors
/// If the limit cannot be set.
pub fn limit(memory_max_mb: u64) -> Result<(), SandboxError> {
    let bytes = Some(memory_max_mb.saturating_mul(1 << 20));
    setrlimit(Resource::Data, Rlimit { current: bytes, maximum: bytes })
        .map_err(|source| SandboxError::Memory { mb: memory_max_mb, source })?;
    // Already forbidden where this fails.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    Ok(())
}

/// Gives up files, network and other programs for the calling thread and all that it starts later.
pub fn enter() -> Sandbox {
    let landlock = match restrict_files() {
        Ok(RulesetStatus::FullyEnforced) => "full",
        Ok(RulesetStatus::PartiallyEnforced) => "partial",
        Ok(RulesetStatus::NotEnforced) | Err(_) => "none",
    };
    let seccomp = filter().is_some_and(|filter| seccompiler::apply_filter(&filter).is_ok());
    Sandbox { landlock, seccomp }
}

/// No rule is added, so that every file and every TCP port is refused; sets `no_new_privs` as well.
fn restrict_files() -> Result<RulesetStatus, RulesetError> {
    let abi = ABI::V6;
    let status = Ruleset::default()
        .set_compatibility(landlock::CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset)
}

/// Refuses, with EPERM, calls that a process which only computes never makes.
fn filter() -> Option<BpfProgram> {
    let refused = [
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_open_by_handle_at,
        libc::SYS_truncate,
        libc::SYS_mkdirat,
        libc::SYS_mknodat,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_unlinkat,
        libc::SYS_renameat2,
        libc::SYS_fchmodat,
        libc::SYS_fchownat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_link,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_symlink,
    ];
    let rules: BTreeMap<i64, Vec<SeccompRule>> = refused.into_iter().map(|call| (call, Vec::new())).collect();
    let errno = u32::try_from(libc::EPERM).ok()?;
    let arch = std::env::consts::ARCH.try_into().ok()?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch).ok()?.try_into().ok()
}
