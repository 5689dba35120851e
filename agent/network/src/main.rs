//! `pillar-network`: see the library. Init starts it with what the node settings ask for.
#![forbid(unsafe_code)]

use pillar_network::cards::{Cards, CardsError};
use pillar_network::names::Names;
use pillar_network::options::Options;
use pillar_network::{say, time};
use pillar_os::Card;
use std::convert::Infallible;
use std::error::Error;
use std::process::ExitCode;
use std::sync::mpsc;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            say::warning(&error);
            return ExitCode::from(2);
        }
    };
    match run(options) {
        Ok(never) => match never {},
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            say::warning(format_args!("{error}{cause}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<Infallible, CardsError> {
    let (sender, receiver) = mpsc::channel();
    let cards = Cards::new(&options, Names::new(&options.dns), Card::all, sender)?;
    std::thread::spawn(move || time::run(options.time, options.no_time, &receiver));
    cards.run()
}
