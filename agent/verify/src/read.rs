//! A strict reader of the TPM's wire format (TPM 2.0 part 2): big endian, sized buffers with limits, nothing left over.

use pillar_measure::Short;

/// Bytes that are not the structure asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes end inside the structure.
    #[error("ends early: {0}")]
    Short(Short),
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
pub(crate) struct Reader<'a>(pillar_measure::Reader<'a>);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(pillar_measure::Reader::new(bytes))
    }

    pub(crate) fn take(&mut self, wanted: usize) -> Result<&'a [u8], Malformed> {
        self.0.take(wanted).map_err(Malformed::Short)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.0.array().map_err(Malformed::Short)
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
        self.0.offset()
    }

    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        self.0.since(start)
    }

    pub(crate) fn end(self) -> Result<(), Malformed> {
        match self.0.left() {
            0 => Ok(()),
            left => Err(Malformed::Trailing(left)),
        }
    }
}
