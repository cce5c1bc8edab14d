//! The program's code, in assembly: it runs in a guest, never in this process.
#![allow(unsafe_code)]

core::arch::global_asm!(
    ".pushsection .rodata.kiwi_mark, \"a\"",
    ".globl kiwi_mark_start",
    ".hidden kiwi_mark_start",
    ".globl kiwi_mark_end",
    ".hidden kiwi_mark_end",
    "kiwi_mark_start:",
    // rt_sigaction(SIGSEGV, {handler: 2, SA_RESTORER | SA_NODEFER, restorer: 2, mask: 0}): what is refused is skipped.
    // QEMU's emulated SVM refuses ports to a process whose VMM has ever written the guest's segments back: it takes
    // the busy 64-bit task segment for none at all.
    "lea rax, [rip + 2f]",
    "push 0",
    "push rax",
    "push 0x44000000",
    "push rax",
    "mov rsi, rsp",
    "mov edi, 11",
    "xor edx, edx",
    "mov r10d, 8",
    "mov eax, 13",
    "syscall",
    // All ports: iopl(3).
    "mov eax, 172",
    "mov edi, 3",
    "syscall",
    // The boot marker: about to run the command.
    "mov edx, 0x608",
    "mov al, 3",
    "out dx, al",
    // The same for people and for VMMs without that port, on the console: write(1, ..., 10).
    "2: lea rsi, [rip + 3f]",
    "mov edx, 10",
    "mov edi, 1",
    "mov eax, 1",
    "syscall",
    // tcdrain(1): a power-off does not wait for the port's interrupts.
    "mov esi, 0x5409",
    "mov edx, 1",
    "mov eax, 16",
    "syscall",
    // reboot(2): its two magic numbers and the power-off command.
    "mov eax, 169",
    "mov edi, 0xfee1dead",
    "mov esi, 0x28121969",
    "mov edx, 0x4321fedc",
    "syscall",
    // A process 1 that ends panics its kernel: pause(2) for ever.
    "4: mov eax, 34",
    "syscall",
    "jmp 4b",
    "3: .ascii \"KIWI-MARK\\n\"",
    "kiwi_mark_end:",
    ".popsection",
);

unsafe extern "C" {
    static kiwi_mark_start: u8;
    static kiwi_mark_end: u8;
}

/// The code, position-independent, entered at its first byte.
pub(super) fn code() -> &'static [u8] {
    let (start, end) = (&raw const kiwi_mark_start, &raw const kiwi_mark_end);
    let length = end.addr() - start.addr();
    // SAFETY: both labels bound one run of read-only bytes that lives as long as the program.
    unsafe { std::slice::from_raw_parts(start, length) }
}
