//! A strict reader of the TPM's wire format (TPM 2.0 part 2): big endian, sized buffers with limits, nothing left over.

/// Bytes that are not the structure asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end inside the structure.
    #[error("ends early: {wanted} bytes wanted at offset {offset}, {left} left")]
    Short {
        /// Where the field begins.
        offset: usize,
        /// Bytes that the field has.
        wanted: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// Bytes behind the structure.
    #[error("{0} bytes behind its end")]
    Trailing(usize),
    /// A sized buffer over its limit.
    #[error("{field} of {len} bytes is over the limit of {limit}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A value that the field cannot have, or that is not known here.
    #[error("{field} is {value:#x}, which is not known")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

/// A position in borrowed bytes.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn take(&mut self, wanted: usize) -> Result<&'a [u8], Malformed> {
        let left = &self.bytes[self.at..];
        let found = left.get(..wanted);
        let found = found.ok_or(Malformed::Short { offset: self.at, wanted, left: left.len() })?;
        self.at += wanted;
        Ok(found)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A `TPM2B`: two bytes of length, then the bytes.
    pub(crate) fn sized(&mut self, field: &'static str, limit: usize) -> Result<&'a [u8], Malformed> {
        let len = usize::from(self.u16()?);
        if len > limit {
            return Err(Malformed::TooLong { field, len, limit });
        }
        self.take(len)
    }

    pub(crate) fn offset(&self) -> usize {
        self.at
    }

    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    pub(crate) fn end(self) -> Result<(), Malformed> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            left => Err(Malformed::Trailing(left)),
        }
    }
}
