//! The TPM's wire format (TPM 2.0 part 1, section 18; part 2): big-endian numbers, and buffers behind their size.

/// Something that ended too early or has more than it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an answer of the TPM is cut off or too long")]
pub struct Malformed;

/// Reads from the front.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// So many bytes.
    pub fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A 16-bit number.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.take(2)?.try_into().map(u16::from_be_bytes).map_err(|_| Malformed)
    }

    /// A 32-bit number.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(|_| Malformed)
    }

    /// The content of a `TPM2B`.
    pub fn sized(&mut self) -> Result<&'a [u8], Malformed> {
        let bytes = self.u16()?;
        self.take(usize::from(bytes))
    }

    /// Nothing may be left.
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// A `TPM2B` around these bytes. Everything that is sent is far below 64 KiB.
pub fn sized(content: &[u8]) -> Vec<u8> {
    let bytes = u16::try_from(content.len()).expect("parameters are limited to the TPM's buffer");
    [&bytes.to_be_bytes(), content].concat()
}
