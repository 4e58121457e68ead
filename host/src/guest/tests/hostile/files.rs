//! Files that are no sound component: changed, cut off, made to hurt the compiler. Each is refused with a code or runs as
//! contained as any other; the process goes on.

use std::io::Write;
use std::os::unix::fs::symlink;

use super::*;
use crate::guest::tests::grants;

/// Small numbers that look random and are the same in each run (splitmix64, public domain).
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }
}

/// A handler with imports, memory, a table, data and an allocator, so that a flipped bit finds something to break.
fn victim() -> Vec<u8> {
    let body = format!(
        r#"(table $t 4 funcref) (elem (i32.const 0) $alloc) (data (i32.const 4096) "\00\20\00\00\09\00\00\00") (data (i32.const 8192) "test.todo")
        {}"#,
        wat::with_code(
            "task",
            "(call $publish (i32.const 4096) (i32.const 12288)) (drop (call_indirect $t (param i32 i32 i32 i32) (result i32)
                (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8) (i32.const 0))) (i32.const 16)"
        )
    );
    wat::component("task-worker", wat::PUBLISH, &body)
}

#[derive(Debug, Default)]
struct Seen {
    refused: u32,
    done: u32,
    failed: u32,
}

impl Seen {
    /// Loads it and, if it is taken, runs it.
    async fn try_file(&mut self, range: &Range, what: &str, bytes: &[u8]) {
        if let Some(error) = range.load(bytes).await {
            assert!((301..=307).contains(&error.code.0), "{what}: {error}");
            assert!(!error.what.contains("the compiler failed"), "{what}: {error}");
            assert!(
                !error.what.is_empty() && !error.next.is_empty(),
                "{what}: {error}"
            );
            self.refused += 1;
            return;
        }
        let done = range.attack_for(Duration::from_millis(200)).await;
        if done.outcome == Outcome::Done {
            self.done += 1;
        } else {
            let failure = done.outcome.failure().unwrap();
            assert!(
                failure.code.is_some() || !failure.reason.is_empty(),
                "{what}: {:?}",
                done.outcome
            );
            self.failed += 1;
        }
    }
}

async fn neighbour_works(range: &Range) {
    let done = range.call("n", &[task("")], TIMEOUT).await.remove(0);
    assert_eq!(done.outcome, Outcome::Done);
}

async fn hunted() -> Range {
    Range::with(&victim(), |p| p.publish = grants(&["out"])).await
}

#[tokio::test]
async fn each_of_six_hundred_changed_components_is_refused_or_contained() {
    let range = hunted().await;
    let good = victim();
    let mut random = Seeded(0x4865_6c69_7821);
    let mut seen = Seen::default();
    for n in 0..600 {
        let mut bytes = good.clone();
        let mut what = format!("change {n}:");
        for _ in 0..=random.below(3) {
            let (at, bit) = (random.below(bytes.len()), random.below(8));
            bytes[at] ^= 1 << bit;
            what += &format!(" bit {bit} of byte {at}");
        }
        seen.try_file(&range, &what, &bytes).await;
        if n % 50 == 0 {
            neighbour_works(&range).await;
        }
    }
    eprintln!("600 changed components: {seen:?}");
    // Of each kind some, else nothing was tried.
    assert!(seen.refused > 100 && seen.done + seen.failed > 20, "{seen:?}");
    assert_eq!(range.load(&good).await, None);
    range.stands().await;
}

/// Where the sections of a component begin and end, nested ones included.
fn boundaries(bytes: &[u8]) -> Vec<usize> {
    fn walk(bytes: &[u8], from: usize, to: usize, found: &mut Vec<usize>) {
        let mut at = from + 8;
        while at < to {
            found.push(at);
            let id = bytes[at];
            at += 1;
            let (mut size, mut shift) = (0_usize, 0);
            loop {
                let byte = bytes[at];
                at += 1;
                size |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            // Core module and component.
            if from == 0 && (id == 1 || id == 4) {
                walk(bytes, at, at + size, found);
            }
            at += size;
        }
        found.push(to);
    }
    let mut found = Vec::new();
    walk(bytes, 0, bytes.len(), &mut found);
    found.sort_unstable();
    found.dedup();
    found
}

#[tokio::test]
async fn a_component_cut_off_at_any_section_is_refused() {
    let range = hunted().await;
    let good = victim();
    let ends = boundaries(&good);
    assert!(ends.len() > 30, "{}", ends.len());
    let mut seen = Seen::default();
    for end in ends {
        for length in [end - 1, end, end + 1] {
            if length < good.len() {
                seen.try_file(&range, &format!("the first {length} bytes"), &good[..length])
                    .await;
            }
        }
    }
    eprintln!("cut off: {seen:?}");
    // Whole at an earlier end if what follows is names only.
    assert!(seen.refused > 80 && seen.done + seen.failed <= 6, "{seen:?}");
    assert_eq!(range.load(&good).await, None);
    range.stands().await;
}

#[tokio::test]
async fn noise_behind_the_head_of_a_component_is_refused() {
    let range = hunted().await;
    let mut random = Seeded(7);
    let mut seen = Seen::default();
    for n in 0..200 {
        let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
        bytes.extend(
            (0..random.below(4096))
                .map(|_| u8::try_from(random.below(256)).unwrap())
                .collect::<Vec<_>>(),
        );
        seen.try_file(&range, &format!("noise {n}"), &bytes).await;
    }
    assert_eq!((seen.done, seen.failed), (0, 0));
    range.stands().await;
}

/// Refused with this code, quickly, and the version before serves.
async fn refused(range: &Range, code: u16, part: &str) {
    let error = range.runtime.reload("p").await.error.expect("refused");
    let text = error.to_string();
    assert_eq!(error.code.0, code, "{text}");
    assert!(text.contains(part), "{part} is not in {text}");
    range.stands().await;
}

#[tokio::test]
async fn a_sparse_file_of_a_gibibyte_is_refused_without_being_read() {
    let range = hunted().await;
    let before = status_kib("VmHWM:");
    let mut big = std::fs::File::create(file(&range.folder, "p")).unwrap();
    big.write_all(&victim()).unwrap();
    big.set_len(1 << 30).unwrap();
    let started = std::time::Instant::now();
    refused(&range, 303, "limits.wasm_size").await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    let peak = status_kib("VmHWM:").saturating_sub(before);
    assert!(peak < 300 << 10, "{peak} KiB");
}

#[tokio::test]
async fn links_to_devices_and_out_of_the_folder_are_refused() {
    let range = hunted().await;
    let place = file(&range.folder, "p");
    let outside = range.folder.path().join("outside.wasm");
    std::fs::write(&outside, victim()).unwrap();
    for target in ["/dev/zero", "/etc/passwd", "../outside.wasm", "/proc/self/mem"] {
        std::fs::remove_file(&place).unwrap();
        symlink(target, &place).unwrap();
        refused(&range, 304, "outside of the plugins folder").await;
    }
    // In a circle.
    std::fs::remove_file(&place).unwrap();
    symlink("p.wasm", &place).unwrap();
    refused(&range, 301, "cannot be read").await;
}

/// A component with this core module in it, lifted to nothing: only the compiler sees it.
fn carrying(module: &str) -> Vec<u8> {
    ::wat::parse_str(format!("(component (core module {module}))")).unwrap()
}

#[tokio::test]
async fn code_made_to_overflow_the_compiler_is_refused_or_compiled() {
    let range = hunted().await;
    let deep = 5_000;
    let cases = [
        (
            "blocks in blocks",
            carrying(&format!(
                "(func {} {})",
                "block ".repeat(deep),
                "end ".repeat(deep)
            )),
        ),
        (
            "ifs in ifs",
            carrying(&format!(
                "(func {} {})",
                "i32.const 1 if ".repeat(deep / 2),
                "end ".repeat(deep / 2)
            )),
        ),
        (
            "one long sum",
            carrying(&format!(
                "(func (result i32) i32.const 1 {})",
                "i32.const 1 i32.add ".repeat(deep / 2)
            )),
        ),
        (
            "values on the stack",
            carrying(&format!(
                "(func {} {})",
                "i32.const 1 ".repeat(deep / 2),
                "drop ".repeat(deep / 2)
            )),
        ),
        (
            "a jump with many targets",
            carrying(&format!(
                "(func (param i32) local.get 0 br_table {} 0)",
                "0 ".repeat(deep)
            )),
        ),
        (
            "fifty thousand locals",
            carrying(&format!("(func {})", "(local i64) ".repeat(50_000))),
        ),
        ("a thousand functions", carrying(&"(func) ".repeat(1_000))),
    ];
    let mut seen = Seen::default();
    for (what, bytes) in cases {
        assert!(bytes.len() < 1 << 20, "{what}: {} bytes", bytes.len());
        let started = std::time::Instant::now();
        seen.try_file(&range, what, &bytes).await;
        eprintln!("{what}: {} bytes, {:?}", bytes.len(), started.elapsed());
        neighbour_works(&range).await;
    }
    // They export nothing, so none of them serves.
    assert_eq!(seen.refused, 7);
    range.stands().await;
}

/// As bytes: the text format stops at a depth of its own.
fn components_in_components(depth: usize) -> Vec<u8> {
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    for _ in 0..depth {
        let mut section = vec![4];
        let mut size = bytes.len();
        while size >= 0x80 {
            section.push(u8::try_from(size & 0x7f).unwrap() | 0x80);
            size >>= 7;
        }
        section.push(u8::try_from(size).unwrap());
        section.extend(bytes);
        bytes = [b"\0asm\x0d\0\x01\0", section.as_slice()].concat();
    }
    bytes
}

#[tokio::test]
async fn types_made_to_overflow_the_checker_are_refused() {
    let range = hunted().await;
    let lists = |depth: usize| {
        let mut text = String::from("(component (type $t0 (list u8))");
        for n in 1..depth {
            text += &format!("(type $t{n} (list $t{}))", n - 1);
        }
        text + &format!(r#"(import "f" (func (param "a" $t{}))))"#, depth - 1)
    };
    let doubles = |depth: usize| {
        let mut text = String::from("(component (type $t0 (tuple u64 u64))");
        for n in 1..depth {
            text += &format!("(type $t{n} (tuple $t{0} $t{0}))", n - 1);
        }
        text + &format!(r#"(import "f" (func (param "a" $t{}))))"#, depth - 1)
    };
    let mut seen = Seen::default();
    for (what, text) in [
        ("lists of lists", lists(90)),
        ("lists of lists, deep", lists(20_000)),
        ("doubling tuples", doubles(64)),
    ] {
        let bytes = ::wat::parse_str(&text).unwrap();
        assert!(bytes.len() < 1 << 20, "{what}: {} bytes", bytes.len());
        seen.try_file(&range, what, &bytes).await;
        neighbour_works(&range).await;
    }
    for depth in [50, 5000] {
        let bytes = components_in_components(depth);
        seen.try_file(&range, "components in components", &bytes).await;
        neighbour_works(&range).await;
    }
    assert_eq!(seen.refused, 5);
    range.stands().await;
}

#[tokio::test]
async fn names_in_a_file_reach_no_terminal_and_fill_no_log() {
    let range = hunted().await;
    let name = r"\1b[2J\1b]0;owned\07";
    let twice = format!(r#"(func) (export "{name}" (func 0)) (export "{name}" (func 0))"#);
    let long = "x".repeat(90_000);
    let many = format!(r#"(func) (export "{long}" (func 0)) (export "{long}" (func 0))"#);
    for module in [twice, many] {
        let error = range.load(&carrying(&module)).await.expect("refused");
        let text = error.to_string();
        assert_eq!(error.code.0, 301);
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(text.len() < 4096, "a refusal of {} bytes", text.len());
        range.stands().await;
    }
}
