//! Where a private key for signing is, when it is not one of the development keys.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A private key by its place. The key itself is never read by us: the signing program gets this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A PEM file.
    File(PathBuf),
    /// A token's key by its PKCS#11 URI (RFC 7512), for OpenSSL's pkcs11 provider.
    Pkcs11(String),
}

impl FromStr for KeySource {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text.starts_with("pkcs11:") { Self::Pkcs11(text.to_owned()) } else { Self::File(text.into()) })
    }
}

impl From<PathBuf> for KeySource {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Pkcs11(uri) => f.write_str(uri),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_and_a_path_are_told_apart() {
        for (text, want) in [
            ("pkcs11:token=pillar;object=db", KeySource::Pkcs11("pkcs11:token=pillar;object=db".to_owned())),
            ("keys/dev/db.key", KeySource::File("keys/dev/db.key".into())),
            ("./pkcs11:odd", KeySource::File("./pkcs11:odd".into())),
        ] {
            let Ok(source) = text.parse::<KeySource>();
            assert_eq!(source, want);
            assert_eq!(source.to_string(), text);
        }
    }
}
