//! A reader over borrowed bytes that never reads past the end and knows where it is. Numbers are little endian, as in
//! the firmware's event log; who reads another order takes arrays.

/// The bytes ended before the field did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes wanted at offset {offset}, {left} left")]
pub struct Short {
    /// Where the field begins.
    pub offset: usize,
    /// Bytes that the field has.
    pub wanted: usize,
    /// Bytes that are left.
    pub left: usize,
}

/// A position in borrowed bytes.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the beginning.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes that were taken.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// What was taken from there on.
    #[must_use]
    pub fn since(&self, offset: usize) -> &'a [u8] {
        self.bytes.get(offset..self.at).unwrap_or_default()
    }

    /// What is left, without taking it.
    pub(crate) fn peek(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// The next so many bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let found = self.bytes.get(self.at..).and_then(|rest| rest.get(..len)).ok_or(Short {
            offset: self.at,
            wanted: len,
            left: self.left(),
        })?;
        self.at += len;
        Ok(found)
    }

    /// The same, as many as the array has.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        Ok(u64::from_le_bytes(self.array()?))
    }
}
