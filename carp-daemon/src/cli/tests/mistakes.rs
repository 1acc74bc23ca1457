//! Tests of options that do not fit together.

use super::*;

#[test]
fn rest_of_a_password_without_quotes_is_not_shown() {
    for rest in ["secret", "-Qsecret", "--secret"] {
        let text = refused(&["carpd", "-i", "eth0", "-p", "my", rest, "-v", "7"]);
        assert!(
            !text.contains("secret") && !text.contains("-Q") && text.contains("quotes"),
            "{text}"
        );
    }
}

#[test]
fn of_several_mistakes_the_first_on_the_command_line_is_shown() {
    let text = refused(&["carpd", "-k", "1000", "-v", "0"]);
    assert!(text.contains("--advskew"), "{text}");
    let text = refused(&["carpd", "-v", "0", "-k", "1000", "--lease=1"]);
    assert!(
        text.contains("--vhid") && !text.contains("--advskew"),
        "{text}"
    );
    let text = refused(&["carpd", "-i", "eth0", "--lease=1"]);
    assert!(
        text.contains("--lease") && !text.contains("must supply"),
        "{text}"
    );
}

#[test]
fn a_second_address_is_an_error_that_names_both() {
    let mut line = REQUIRED.to_vec();
    line.extend(["--addr", "10.0.0.2/24"]);
    let text = refused(&line);
    assert!(text.contains("10.0.0.1/32 and 10.0.0.2/24"), "{text}");
}

#[test]
fn both_ways_to_give_a_password_are_warned_of_with_the_one_that_counts() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "filed\n").unwrap();
    let path = file.path().to_str().unwrap();
    let warned = |more: &[&str], counts: &str| {
        let warnings = parsed(more).unwrap().warnings;
        warnings
            .iter()
            .any(|it| it.contains("Both") && it.contains(counts))
    };
    assert!(warned(&["-o", path], "--passfile counts"));
    assert!(warned(&["-o", path, "-p", "hate"], "--pass counts"));
    assert!(!warned(&["-p", "hate"], "counts"));
}

#[test]
fn an_error_that_names_the_accepted_values_has_no_hint_at_the_help() {
    for line in [["carpd", "-v", "0"], ["carpd", "--datapath", "tape"]] {
        let text = refused(&line);
        assert!(
            !text.contains("Usage") && !text.contains("--help"),
            "{text}"
        );
    }
}

#[test]
fn a_hint_at_another_option_names_one_that_help_shows() {
    let text = refused(&["carpd", "--vhidd", "7"]);
    assert!(text.contains("'--vhid'"), "{text}");
    for unknown in ["--frob", "--dx", "--nope", "--prx"] {
        let text = refused(&["carpd", unknown]);
        for hidden in ["--v'", "--vh'", "--pr'", "--no'", "--da'", "--f'"] {
            assert!(!text.contains(hidden), "{text}");
        }
    }
}
