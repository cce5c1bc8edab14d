//! The program's code, in assembly: it runs in a guest, never in this process.
#![allow(unsafe_code)]

core::arch::global_asm!(
    ".pushsection .rodata.kiwi_mark, \"a\"",
    ".globl kiwi_mark_start",
    ".hidden kiwi_mark_start",
    ".globl kiwi_mark_end",
    ".hidden kiwi_mark_end",
    "kiwi_mark_start:",
    // All ports: iopl(3).
    "mov eax, 172",
    "mov edi, 3",
    "syscall",
    // The boot marker: about to run the command.
    "mov edx, 0x608",
    "mov al, 3",
    "out dx, al",
    // The same for people and for VMMs without that port, on COM1.
    "lea rsi, [rip + 3f]",
    "mov ecx, 10",
    "mov edx, 0x3f8",
    "2: lodsb",
    "out dx, al",
    "dec ecx",
    "jnz 2b",
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
