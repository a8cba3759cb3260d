//! `man-pages FOLDER`: writes the man pages of the programs and of each of their commands, from the definitions that their command lines
//! are parsed by.

use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(folder), None) = (args.next(), args.next()) else {
        eprintln!("usage: man-pages FOLDER");
        return ExitCode::from(2);
    };
    match write(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("man-pages: cannot write to {}: {error}", Path::new(&folder).display());
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for command in commands() {
        clap_mangen::generate_to(command, folder)?;
    }
    Ok(())
}

fn commands() -> [Command; 3] {
    let programs = [
        camera_agent::cli::Cli::command(),
        edge_agent::cli::Cli::command(),
        microlambda_provision::cli::Cli::command(),
    ];
    // The `help` command explains the others, which have pages of their own.
    programs.map(|command| command.disable_help_subcommand(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path()).expect("pages");
        for command in commands() {
            let mut names = vec![command.get_name().to_owned()];
            names.extend(command.get_subcommands().map(|sub| format!("{}-{}", command.get_name(), sub.get_name())));
            for name in names {
                let page = std::fs::read_to_string(folder.path().join(format!("{name}.1"))).expect(&name);
                assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}");
            }
        }
    }
}
