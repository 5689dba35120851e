//! What went wrong, as a person sees it: what, why, what to do; and the exit code.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// Why a command failed, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Wrong arguments, a file that cannot be read, anything else.
    Other,
    /// A check refused the evidence.
    Refused,
    /// Nobody answers.
    Unreachable,
    /// The pillar answers and says no: it does not know our key, or cannot do what was asked.
    Denied,
    /// There is no pillar of that name.
    Unknown,
    /// The constitution is void.
    Expired,
    /// This machine's clock and the pillar's are too far apart, or a certificate is not valid yet.
    Clock,
    /// More operators must sign.
    Unsigned,
    /// The pillar belongs to no cluster, or to another one.
    NoCluster,
}

impl Kind {
    /// The process's exit code.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(self.code())
    }

    /// The same as a number; `cli` documents it.
    pub fn code(self) -> u8 {
        match self {
            Kind::Other => 1,
            Kind::Refused => 2,
            Kind::Unreachable => 3,
            Kind::Denied => 4,
            Kind::Unknown => 5,
            Kind::Expired => 6,
            Kind::Clock => 7,
            Kind::Unsigned => 8,
            Kind::NoCluster => 9,
        }
    }
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// For the exit code.
    pub kind: Kind,
    what: String,
    causes: Vec<String>,
    hint: Option<String>,
}

impl Failure {
    /// A failure of our own making.
    pub fn new(what: impl Into<String>) -> Self {
        Self { kind: Kind::Other, what: what.into(), causes: Vec::new(), hint: None }
    }

    /// What failed, and the chain of errors below it.
    pub fn because(what: impl Into<String>, source: &dyn Error) -> Self {
        let mut causes = vec![source.to_string()];
        let mut next = source.source();
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        Self { causes, ..Self::new(what) }
    }

    /// An error as it is, with the chain below it.
    pub fn of(error: &dyn Error) -> Self {
        let mut failure = Self::because(String::new(), error);
        failure.what = failure.causes.remove(0);
        failure
    }

    /// What failed, without why and what to do.
    pub fn words(&self) -> &str {
        &self.what
    }

    /// Whether it says what to do.
    pub fn has_hint(&self) -> bool {
        self.hint.is_some()
    }

    /// With another kind.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// With what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {cause}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Result of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

/// What a command that came to its end prints, and whether its exit code says more than "done".
#[derive(Debug)]
pub struct Said {
    /// For standard output.
    pub text: String,
    /// None: done.
    pub kind: Option<Kind>,
}

impl From<String> for Said {
    fn from(text: String) -> Self {
        Self { text, kind: None }
    }
}
