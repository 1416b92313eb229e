//! `file://`: output is appended to a file.

use std::path::Path;

use tokio::fs::{self, File};

use super::StdioError;

/// Opens a file for appending; it and its directories are made if need be.
///
/// # Errors
/// It cannot be.
pub async fn open(path: &Path) -> Result<File, StdioError> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).await.map_err(StdioError::at(parent))?;
    }
    File::options()
        .create(true)
        .append(true)
        .mode(0o644)
        .open(path)
        .await
        .map_err(StdioError::at(path))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn directories_are_made_and_contents_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c.log");
        for text in ["one\n", "two\n"] {
            let mut file = open(&path).await.unwrap();
            file.write_all(text.as_bytes()).await.unwrap();
            file.flush().await.unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\ntwo\n");
    }
}
