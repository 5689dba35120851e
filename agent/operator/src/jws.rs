//! An attestation result for other programs: EAR as JSON, or signed as a JWS (RFC 7515, compact) with EdDSA (RFC 8037).

use crate::failure::{Failure, Kind, Outcome};
use crate::report::Report;
use crate::signer::Signer;
use data_encoding::BASE64URL_NOPAD;
use pillar_signer::Source;
use serde_json::{Value, json};

/// `typ` of a JWT that holds an EAT (RFC 9711, section 9.3.1).
const TYPE: &str = "eat+jwt";

/// The result, signed when there is a key.
pub fn result(report: &Report, sign_with: Option<&Source>) -> Outcome<String> {
    let ear = report.ear.as_ref().ok_or_else(|| {
        let why = report.refusal().unwrap_or_else(|| "another pillar judged it".to_owned());
        Failure::new(format!("there is no attestation result of our own: {why}"))
            .kind(Kind::Refused)
            .hint("-o text or -o json prints what there is")
    })?;
    match sign_with {
        None => Ok(format!("{ear:#}\n")),
        Some(source) => signed(ear, &Signer::alone(source)?).map(|jws| jws + "\n"),
    }
}

fn signed(claims: &Value, signer: &Signer) -> Outcome<String> {
    let header = json!({ "alg": "EdDSA", "typ": TYPE, "kid": pillar_quorum::key_id(&signer.public()) });
    let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let input = format!("{}.{}", part(&header), part(claims));
    let signature = signer.sign(input.as_bytes())?;
    Ok(format!("{input}.{}", BASE64URL_NOPAD.encode(&signature)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operators::tests::write_operator;
    use ring::signature::{ED25519, UnparsedPublicKey};

    #[test]
    fn a_result_is_signed_as_a_compact_jws() {
        let dir = tempfile::tempdir().expect("folder");
        write_operator(dir.path(), "operator-1", "operator-1");
        let key = Source::File(dir.path().join("operator-1.key"));
        let mut report = Report::refused("p1".to_owned(), "evidence", "none", "wait");
        let failure = result(&report, Some(&key)).expect_err("nothing was judged");
        assert!(
            failure.to_string().contains("no attestation result of our own: evidence: none"),
            "{failure}"
        );
        report.ear = Some(json!({ "eat_profile": "tag:github.com,2023:veraison/ear" }));
        assert!(result(&report, None).expect("JSON").starts_with("{\n"));
        let jws = result(&report, Some(&key)).expect("signed");
        let parts: Vec<&str> = jws.trim_end().split('.').collect();
        let header: Value =
            serde_json::from_slice(&BASE64URL_NOPAD.decode(parts[0].as_bytes()).expect("base64"))
                .expect("JSON");
        assert_eq!((&header["alg"], &header["typ"]), (&json!("EdDSA"), &json!("eat+jwt")));
        let signature = BASE64URL_NOPAD.decode(parts[2].as_bytes()).expect("base64");
        let key = Signer::alone(&key).expect("a key").public();
        let input = format!("{}.{}", parts[0], parts[1]);
        UnparsedPublicKey::new(&ED25519, &key.0)
            .verify(input.as_bytes(), &signature)
            .expect("a good signature");
    }
}
