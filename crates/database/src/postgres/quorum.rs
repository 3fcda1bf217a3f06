use std::iter::Peekable;
use std::str::{CharIndices, FromStr};

/// What `synchronous_standby_names` says.
///
/// Grammar: PostgreSQL's `syncrep_gram.y`: `FIRST n (a, b)`, `ANY n (a, b)`, `n (a, b)` and `a, b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyNames {
    /// How many standbys a commit waits for.
    pub required: usize,
    /// Lower case, as they are compared without regard to it; `*` is any.
    pub names: Vec<String>,
}

/// A text that is no list of standbys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("synchronous_standby_names can't be read")]
pub struct InvalidStandbyNames;

impl StandbyNames {
    /// Why a commit could be confirmed without the standby of this name; `None` when it never is.
    ///
    /// A list of m names of which n are required holds every standby in every quorum only when n = m: with fewer,
    /// others can make up the number, at the latest when this one is away. This goes for FIRST as for ANY.
    pub fn why_not_in_every_quorum(&self, name: &str) -> Option<&'static str> {
        if self.names.is_empty() {
            return Some("it is empty, so commits wait for nobody");
        }
        if self.names.iter().any(|listed| listed == "*") {
            return Some("with '*' any standby counts");
        }
        if !self.names.contains(&name.to_lowercase()) {
            return Some("Levee's application_name is not in it");
        }
        if self.required < self.names.len() {
            return Some("commits do not wait for all that are listed, so others can stand in for Levee");
        }
        None
    }
}

impl FromStr for StandbyNames {
    type Err = InvalidStandbyNames;

    fn from_str(text: &str) -> Result<Self, InvalidStandbyNames> {
        let tokens = tokens(text)?;
        let parsed = match tokens.as_slice() {
            [] => Self { required: 0, names: Vec::new() },
            [Token::Word(method), Token::Word(count), Token::Open, list @ .., Token::Close]
                if ["first", "any"].contains(&method.as_str()) =>
            {
                Self { required: number(count)?, names: list_of(list)? }
            }
            [Token::Word(count), Token::Open, list @ .., Token::Close] => {
                Self { required: number(count)?, names: list_of(list)? }
            }
            list => Self { required: 1, names: list_of(list)? },
        };
        Ok(parsed)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// In lower case.
    Word(String),
    Quoted(String),
    Comma,
    Open,
    Close,
}

fn number(word: &str) -> Result<usize, InvalidStandbyNames> {
    word.parse().ok().filter(|number| *number > 0).ok_or(InvalidStandbyNames)
}

fn list_of(tokens: &[Token]) -> Result<Vec<String>, InvalidStandbyNames> {
    tokens
        .split(|token| *token == Token::Comma)
        .map(|item| match item {
            [Token::Word(name) | Token::Quoted(name)] => Ok(name.clone()),
            _ => Err(InvalidStandbyNames),
        })
        .collect()
}

fn tokens(text: &str) -> Result<Vec<Token>, InvalidStandbyNames> {
    let mut tokens = Vec::new();
    let mut characters = text.char_indices().peekable();
    while let Some((start, character)) = characters.next() {
        tokens.push(match character {
            ',' => Token::Comma,
            '(' => Token::Open,
            ')' => Token::Close,
            '"' => Token::Quoted(quoted(&mut characters)?),
            space if space.is_whitespace() => continue,
            _ => {
                let ends = |c: char| c.is_whitespace() || ",()\"".contains(c);
                while characters.next_if(|(_, next)| !ends(*next)).is_some() {}
                let end = characters.peek().map_or(text.len(), |(at, _)| *at);
                Token::Word(text[start..end].to_lowercase())
            }
        });
    }
    Ok(tokens)
}

/// The rest of a quoted name; a doubled quote stands for one.
fn quoted(characters: &mut Peekable<CharIndices<'_>>) -> Result<String, InvalidStandbyNames> {
    let mut name = String::new();
    loop {
        match characters.next() {
            None => return Err(InvalidStandbyNames),
            Some((_, '"')) if characters.next_if(|(_, next)| *next == '"').is_none() => break,
            Some((_, character)) => name.push(character),
        }
    }
    Ok(name.to_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_standby_that_every_quorum_needs_gives_zero_loss() {
        let check = |text: &str, safe: bool| {
            let names: StandbyNames = text.parse().unwrap();
            assert_eq!(names.why_not_in_every_quorum("levee").is_none(), safe, "{text}");
        };
        check("levee", true);
        check("Levee", true);
        check("FIRST 1 (levee)", true);
        check("first 2 (levee, x)", true);
        check("ANY 2 (levee, \"x\")", true);
        check("any 3(x,levee , y)", true);
        check("1 (levee)", true);
        check("\"levee\"", true);
        check("", false);
        check("*", false);
        check("FIRST 1 (*)", false);
        check("ANY 2 (levee, *)", false);
        check("levee, x", false);
        check("FIRST 1 (levee, x)", false);
        check("ANY 1 (levee, x)", false);
        check("2 (x, y)", false);
        check("x", false);
        check("\"le\"\"vee\"", false);
    }

    #[test]
    fn what_is_no_list_is_an_error() {
        for bad in ["ANY (levee)", "ANY 0 (levee)", "ANY x (levee)", "levee,", "\"levee", "FIRST 1 (levee", "a b", "()"]
        {
            assert_eq!(bad.parse::<StandbyNames>(), Err(InvalidStandbyNames), "{bad}");
        }
        // Words of the grammar are names where they stand alone.
        assert_eq!("first, any".parse::<StandbyNames>().unwrap().names, ["first", "any"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-zé0-9*,()\" ]{0,40}") {
            let _ = text.parse::<StandbyNames>();
        }
    }
}
