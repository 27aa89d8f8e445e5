//! Holds docs/api.json to the types.

use std::{env, fs, path::Path};

/// `docs/api.json` describes the operations and types as they are.
#[test]
fn the_document_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.json");
    let expected = format!("{:#}\n", overlay_api::schema::document());
    if env::var_os("UPDATE_API_JSON").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == expected,
        "docs/api.json is not what the types are: write it anew with `UPDATE_API_JSON=1 cargo test -p overlay-api \
         --test document`"
    );
}
