//! Manual pages and shell completions, made from the command line itself: they cannot say anything
//! else than it does.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;

use super::CommandLine;

const NAME: &str = "twinpool";

/// What stands in the manual beside the commands.
const MORE: &str = r#".SH "EXIT STATUS"
0 done; 1 refused or failed, with the reason; 2 usage; 69 no daemon answers; 78 configuration error.
.SH SIGNALS
SIGTERM and SIGINT stop the daemon: it takes no new sessions and keeps those it has for
\fBstop_deadline\fR. A second one does not wait. SIGHUP has the configuration read again, as
\fBtwinpool reload\fR does; SIGUSR2 has the program on disk take over, as \fBtwinpool upgrade\fR does;
SIGUSR1 has the file of the access log opened anew.
.SH FILES
.TP
\fI/etc/twinpool/twinpool.toml\fR
the configuration
.TP
\fI/run/twinpool/control.sock\fR
where commands go; its owner and its group may command
.TP
\fI/var/lib/twinpool\fR
what outlives a restart
.TP
\fI/var/log/twinpool\fR
the place of an access log
.SH "SEE ALSO"
\fBsystemctl\fR(1), \fBjournalctl\fR(1), and
\fI/usr/share/doc/twinpool/examples/twinpool.toml\fR with every key of the configuration
"#;

/// What can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The manual: twinpool(1), and a page for each command
    Man,
    /// Completions for bash
    Bash,
    /// Completions for zsh
    Zsh,
    /// Completions for fish
    Fish,
}

/// Writes it to a directory, under the names that are looked for, or to standard output: of the
/// manual its first page.
///
/// # Errors
/// When it cannot be written.
pub fn generate(what: What, to: Option<&Path>) -> io::Result<()> {
    let files = files(what)?;
    match to {
        Some(directory) => {
            fs::create_dir_all(directory)?;
            for (name, text) in files {
                fs::write(directory.join(name), text)?;
            }
            Ok(())
        }
        None => match files.first() {
            Some((_, text)) => io::stdout().write_all(text),
            None => Ok(()),
        },
    }
}

/// Each file's name and text.
fn files(what: What) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = CommandLine::command();
    let shell = match what {
        What::Man => return pages(command),
        What::Bash => Shell::Bash,
        What::Zsh => Shell::Zsh,
        What::Fish => Shell::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, NAME, &mut text);
    let name = match shell {
        Shell::Zsh => format!("_{NAME}"),
        Shell::Fish => format!("{NAME}.fish"),
        _ => NAME.to_owned(),
    };
    Ok(vec![(name, text)])
}

fn pages(mut command: Command) -> io::Result<Vec<(String, Vec<u8>)>> {
    command.build();
    let mut pages = vec![page(command.clone(), MORE)?];
    for of in command.get_subcommands().filter(|of| !of.is_hide_set()) {
        pages.push(page(of.clone().version(env!("CARGO_PKG_VERSION")), "")?);
    }
    Ok(pages)
}

fn page(command: Command, more: &str) -> io::Result<(String, Vec<u8>)> {
    let page = Man::new(command).manual("twinpool");
    let mut text = Vec::new();
    page.render(&mut text)?;
    text.extend_from_slice(more.as_bytes());
    Ok((page.get_filename(), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(what: What) -> String {
        String::from_utf8(files(what).unwrap().remove(0).1).unwrap()
    }

    #[test]
    fn every_command_that_is_shown_has_a_page_and_is_completed() {
        let pages = files(What::Man).unwrap();
        let (bash, zsh, fish) = (text(What::Bash), text(What::Zsh), text(What::Fish));
        let command = CommandLine::command();
        let shown = command.get_subcommands().filter(|of| !of.is_hide_set());
        let mut seen = 0;
        for of in shown {
            let name = of.get_name();
            let page = format!("twinpool-{name}.1");
            assert!(pages.iter().any(|(known, _)| *known == page), "{page}");
            for completions in [&bash, &zsh, &fish] {
                assert!(completions.contains(name), "{name}");
            }
            seen += 1;
        }
        assert!(seen > 10, "{seen} commands");
        assert_eq!(pages.len(), seen + 1);
    }

    #[test]
    fn the_first_page_names_the_commands_the_files_and_the_exit_codes() {
        let text = text(What::Man);
        assert!(text.contains(".TH twinpool 1"), "{text}");
        for word in ["twinpool\\-failover(1)", "EXIT STATUS", "twinpool.toml"] {
            assert!(text.contains(word), "{word} in {text}");
        }
        assert!(!text.contains("generate"), "{text}");
    }

    #[test]
    fn files_are_written_under_the_names_that_are_looked_for() {
        let dir = std::env::temp_dir().join(format!("twinpool-generate-{}", std::process::id()));
        for what in [What::Man, What::Bash, What::Zsh, What::Fish] {
            generate(what, Some(&dir)).unwrap();
        }
        for name in ["twinpool.1", "twinpool", "_twinpool", "twinpool.fish"] {
            assert!(dir.join(name).metadata().unwrap().len() > 100, "{name}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}
