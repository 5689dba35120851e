//! Shares of the recovery key, from the operators, until there are enough: then the key is left for init's one-shot, who
//! seals the volume anew. They are kept in memory alone, and not for long.

use pillar_model::StateReport;
use pillar_recovery::{RecoverError, Share, Token, TokenError, VolumeId};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// A share that nobody completed is forgotten after this time.
const KEPT: Duration = Duration::from_secs(600);

/// Why a share is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to recover.
    #[error("the state volume is open, there is nothing to recover")]
    Open,
    /// The volume's header names no operators.
    #[error("there is no state volume whose header could be read: {reason}")]
    NoToken {
        /// Why.
        reason: String,
    },
    /// The header's token is damaged.
    #[error("the state volume's recovery token is damaged")]
    Token(#[from] TokenError),
    /// The share is not one.
    #[error("share {index} of {n} does not exist")]
    Index {
        /// Its number.
        index: u32,
        /// So many were made.
        n: u8,
    },
    /// It is not what the header's commitment says.
    #[error("share {index} does not belong to state volume {uuid}")]
    Wrong {
        /// Its number.
        index: u32,
        /// The volume.
        uuid: String,
    },
    /// Together they are no key.
    #[error("the shares make no key")]
    Combine(#[from] RecoverError),
}

/// How far a recovery is.
#[derive(Debug)]
pub enum Progress {
    /// More shares are needed.
    Waiting {
        /// There are.
        have: u8,
        /// There must be.
        needed: u8,
    },
    /// The recovery key.
    Complete {
        /// So many shares made it.
        needed: u8,
        /// The key.
        key: Zeroizing<[u8; pillar_recovery::KEY_BYTES]>,
    },
}

/// The shares that were given.
#[derive(Default)]
pub struct Recovery {
    shares: Mutex<Vec<(Share, Instant)>>,
}

impl std::fmt::Debug for Recovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recovery")
    }
}

impl Recovery {
    /// Takes a share for the volume that the report is about.
    pub fn offer(
        &self,
        report: &StateReport,
        index: u32,
        value: &[u8],
        now: Instant,
    ) -> Result<Progress, Error> {
        if report.is_open() {
            return Err(Error::Open);
        }
        let no_token = || Error::NoToken { reason: report.reason.clone() };
        let token: Token = serde_json::from_str(&report.recovery).map_err(|_| no_token())?;
        token.judge()?;
        let volume = VolumeId::parse(&report.uuid).ok_or_else(no_token)?;
        let exists = || Error::Index { index, n: token.n };
        let number = u8::try_from(index).map_err(|_| exists())?;
        let sealed = token.shares.iter().find(|share| share.index == number).ok_or_else(exists)?;
        let wrong = || Error::Wrong { index, uuid: report.uuid.clone() };
        let value: Zeroizing<[u8; pillar_recovery::KEY_BYTES]> =
            Zeroizing::new(value.try_into().map_err(|_| wrong())?);
        let share = Share::new(volume, number, value).ok_or_else(exists)?;
        if share.commitment().to_string() != sealed.commitment {
            return Err(wrong());
        }
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|(kept, since)| {
            kept.volume() == volume && kept.index() != number && now.saturating_duration_since(*since) < KEPT
        });
        shares.push((share, now));
        let have = u8::try_from(shares.len()).unwrap_or(u8::MAX);
        if have < token.k {
            return Ok(Progress::Waiting { have, needed: token.k });
        }
        let all: Vec<Share> = shares.drain(..).map(|(share, _)| share).collect();
        Ok(Progress::Complete { needed: token.k, key: token.combine(&all, volume)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pillar_model::StateOutcome;
    use pillar_recovery::Operator;

    const UUID: &str = "0c5c2a3e-8a5e-4b8e-9a55-6d1f6f1f6c11";
    const KEY: [u8; 32] = [7; 32];

    fn seed(number: u8) -> [u8; 32] {
        [number; 32]
    }

    /// A volume that two of three operators recover.
    fn report() -> StateReport {
        let operators: Vec<Operator> = (1..=3).map(|n| Operator::of_seed(&seed(n)).expect("a key")).collect();
        let random = vec![0x5a; pillar_recovery::random_bytes_to_make(2, 3)];
        let volume = VolumeId::parse(UUID).expect("a UUID");
        let token = Token::make(&KEY, 2, &operators, volume, 1, &random).expect("a token");
        StateReport {
            outcome: StateOutcome::Sealed,
            reason: "the TPM was cleared".to_owned(),
            hint: String::new(),
            uuid: UUID.to_owned(),
            tag: String::new(),
            device: String::new(),
            partition: String::new(),
            integrity: true,
            partition_bytes: 0,
            minimum_epoch: None,
            epoch: None,
            recovery: serde_json::to_string(&token).expect("JSON"),
        }
    }

    fn share(report: &StateReport, operator: u8) -> (u32, Vec<u8>) {
        let token: Token = serde_json::from_str(&report.recovery).expect("a token");
        let volume = VolumeId::parse(UUID).expect("a UUID");
        let share = token.open(&seed(operator), volume).expect("its share");
        (share.index().into(), share.value().to_vec())
    }

    #[test]
    fn enough_shares_make_the_key_and_the_same_one_twice_does_not() {
        let (report, recovery, now) = (report(), Recovery::default(), Instant::now());
        for _ in 0..2 {
            let (index, value) = share(&report, 1);
            let progress = recovery.offer(&report, index, &value, now).expect("a good share");
            assert!(matches!(progress, Progress::Waiting { have: 1, needed: 2 }), "{progress:?}");
        }
        let (index, value) = share(&report, 3);
        match recovery.offer(&report, index, &value, now).expect("a good share") {
            Progress::Complete { key, .. } => assert_eq!(*key, KEY),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wrong_shares_are_named_and_do_not_count() {
        let (report, recovery, now) = (report(), Recovery::default(), Instant::now());
        let refused = |index: u32, value: &[u8], words: &str| {
            let error = recovery.offer(&report, index, value, now).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        };
        let (index, mut value) = share(&report, 1);
        value[3] ^= 1;
        refused(index, &value, "share 1 does not belong to state volume 0c5c2a3e");
        refused(index, &value[..31], "share 1 does not belong");
        refused(0, &value, "share 0 of 3 does not exist");
        refused(4, &value, "share 4 of 3 does not exist");
        refused(70_000, &value, "does not exist");
        let (index, value) = share(&report, 2);
        let progress = recovery.offer(&report, index, &value, now).expect("a good share");
        assert!(matches!(progress, Progress::Waiting { have: 1, needed: 2 }), "{progress:?}");
    }

    #[test]
    fn shares_are_forgotten_and_an_open_volume_takes_none() {
        let (report, recovery, now) = (report(), Recovery::default(), Instant::now());
        let (index, value) = share(&report, 1);
        recovery.offer(&report, index, &value, now).expect("a good share");
        let (index, value) = share(&report, 2);
        let progress = recovery.offer(&report, index, &value, now + KEPT).expect("a good share");
        assert!(matches!(progress, Progress::Waiting { have: 1, .. }), "{progress:?}");
        let open = StateReport { outcome: StateOutcome::Open, ..report.clone() };
        assert!(matches!(recovery.offer(&open, index, &value, now), Err(Error::Open)));
        let none = StateReport { recovery: String::new(), ..report };
        let error = recovery.offer(&none, index, &value, now).expect_err("no token").to_string();
        assert!(error.contains("the TPM was cleared"), "{error}");
    }
}
