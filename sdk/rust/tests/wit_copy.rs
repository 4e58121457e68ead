//! A published crate needs the WIT inside, and a symlink does not survive every checkout: so the crate has a copy, and
//! this test keeps it one.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn files(folder: &Path) -> BTreeMap<String, String> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wit"))
        .map(|path| {
            (
                path.file_name().unwrap().to_string_lossy().into_owned(),
                fs::read_to_string(&path).unwrap(),
            )
        })
        .collect()
}

#[test]
fn the_copy_is_the_contract() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let contract = here.join("../../wit");
    if !contract.exists() {
        return; // unpacked from a registry: there is only the copy
    }
    assert_eq!(
        files(&here.join("wit")),
        files(&contract),
        "run: cp wit/*.wit sdk/rust/wit/"
    );
}
