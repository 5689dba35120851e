//! Records of `/dev/kmsg` (Documentation/ABI/testing/dev-kmsg). One read gives one record:
//! `<priority>,<sequence>,<microseconds>,<flags>;<text>` LF, then lines ` KEY=value` LF. Unprintable bytes come escaped
//! as `\xNN` and stay so.

use pillar_wire::proto::LogRecord;

/// Syslog severity is the lower three bits of the priority; the facility is above.
const SEVERITY: u32 = 7;

/// A record, or nothing when the bytes are not one.
pub fn parse(record: &[u8]) -> Option<LogRecord> {
    let record = String::from_utf8_lossy(record);
    let (head, text) = record.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let sequence = fields.next()?.parse().ok()?;
    let at_us = fields.next()?.parse().ok()?;
    let text = text.lines().next().unwrap_or_default().to_owned();
    Some(LogRecord { sequence, at_us, level: priority & SEVERITY, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_kernels_description() {
        let record = parse(b"7,160,424069,-;pci_root PNP0A03:00: host bridge window [io  0x0000-0x0cf7] (ignored)\n SUBSYSTEM=acpi\n DEVICE=+acpi:PNP0A03:00\n")
            .expect("a record");
        assert_eq!((record.sequence, record.at_us, record.level), (160, 424_069, 7));
        assert_eq!(record.text, "pci_root PNP0A03:00: host bridge window [io  0x0000-0x0cf7] (ignored)");
        let record =
            parse(b"30,340,5690716,-,caller=T1;udevd[80]: starting version 181\n").expect("a record");
        assert_eq!((record.level, record.text.as_str()), (6, "udevd[80]: starting version 181"));
        assert_eq!(parse(b"6,1,2,-;\n").expect("an empty record").text, "");
    }

    #[test]
    fn what_is_no_record_is_none() {
        for bytes in [&b""[..], b"text", b";", b"6,1;x", b"a,1,2,-;x", b"6,-1,2,-;x", b"99999999999,1,2,-;x"]
        {
            assert!(parse(bytes).is_none(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
